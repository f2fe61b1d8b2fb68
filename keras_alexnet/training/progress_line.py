"""The line of progress of a training, and the pace that its times are told from. Standard library only."""

import time

from keras_alexnet.system.progress import Part, duration


def training_line(
    epoch: tuple[int, int],
    step: tuple[int, int],
    rates: dict[str, float],
    images_per_second: float,
    waiting: float,
    left: float,
    run_left: float | None,
) -> list[Part]:
    """The line of progress of a training.

    Args:
        epoch: the number of the one at hand, and of all.
        step: finished steps of the epoch, and all of it.
        rates: loss, top1_error and top5_error.
        images_per_second: the speed.
        waiting: the share of the time in which there was no data, 0 to 1.
        left: seconds until the end of the epoch's training.
        run_left: seconds until the run's end, None where unknown.

    Returns:
        Its parts: but for the run's time, terminals of 80 columns have room for all of them with ImageNet's numbers.
    """
    errors = "/".join(f"{100 * rates[name]:.1f}" for name in ("top1_error", "top5_error"))
    wait = f"{100 * waiting:.0f}"
    return [
        _epoch_part(epoch),
        _step_part("", step),
        Part(4, (f"loss {rates['loss']:.3f}", f"loss {rates['loss']:.2f}")),
        Part(5, (f"error {errors} %", f"err {errors}%")),
        _speed_part(images_per_second),
        Part(7, (f"({wait} % wait)", f"{wait}% wait"), joint=" "),
        *_time_parts(left, run_left),
    ]


def validation_line(
    epoch: tuple[int, int],
    batch: tuple[int, int | None],
    images_per_second: float,
    left: float | None,
    run_left: float | None,
) -> list[Part]:
    """As `training_line`, while an epoch is validated; all batches and times are None where they are unknown."""
    return [
        _epoch_part(epoch),
        _step_part("validating ", batch),
        _speed_part(images_per_second),
        *(_time_parts(left, run_left) if left is not None else ()),
    ]


def _epoch_part(epoch: tuple[int, int]) -> Part:
    number, epochs = epoch
    text = f"epoch {number}/{epochs}"
    return Part(3, (text, text, f"{number}/{epochs}"), bold=True)


def _step_part(what: str, step: tuple[int, int | None]) -> Part:
    known = [number for number in step if number is not None]
    return Part(2, (what + "/".join(f"{number:,}" for number in known), what + "/".join(map(str, known))))


def _speed_part(images_per_second: float) -> Part:
    return Part(6, (f"{images_per_second:,.0f} img/s", f"{images_per_second:.0f} img/s"))


def _time_parts(left: float, run_left: float | None) -> list[Part]:
    parts = [Part(1, (f"{duration(left)} left",))]
    # In the last epoch they may be the same.
    if run_left is not None and run_left > left:
        parts.append(Part(8, (f"run {duration(run_left)}",), joint=", "))
    return parts


class Pace:
    """How fast steps follow each other, without the first: it is compiled, and waits for the input to start."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def begin_step(self, step: int) -> None:
        """To be called before each step, numbered from 0."""
        if step == 1:
            self._begin_second = time.monotonic()

    def step_seconds(self, finished: int) -> float:
        """Seconds a step, after at least one; the first counts while it is alone."""
        now = time.monotonic()
        return (now - self._begin_second) / (finished - 1) if finished > 1 else now - self._begin
