"""The progress line of a training, and the pace that its ETAs come from. Standard library only."""

import time

from keras_alexnet.system.progress import Part, duration
from keras_alexnet.training.top_k import informative_ranks


def training_line(
    epoch: tuple[int, int],
    step: tuple[int, int],
    rates: dict[str, float],
    num_classes: int,
    images_per_second: float,
    data_wait: float,
    epoch_eta: float,
    run_eta: float | None,
) -> list[Part]:
    """The parts of the line while an epoch is trained; 80 columns have room for ImageNet's, but for the run's ETA.

    Args:
        epoch: number of the current epoch, and of all epochs.
        step: finished steps of the epoch, and all of its steps.
        rates: loss, top1_error and top5_error.
        num_classes: of the network.
        images_per_second: the throughput.
        data_wait: the share of the time in which there was no data, 0 to 1.
        epoch_eta: seconds until the end of the epoch's training.
        run_eta: seconds until the end of the run; None if unknown.
    """
    errors = "/".join(f"{100 * rates[name]:.1f}" for name in (f"top{k}_error" for k in informative_ranks(num_classes)))
    return [
        _epoch_part(epoch),
        _step_part("", step),
        Part(4, f"loss {rates['loss']:.3f}", f"loss {rates['loss']:.2f}"),
        Part(5, f"error {errors}%", f"err {errors}%"),
        _throughput_part(images_per_second),
        Part(7, f"data wait {100 * data_wait:.0f}%", f"wait {100 * data_wait:.0f}%"),
        *_eta_parts(epoch_eta, run_eta),
    ]


def validation_line(
    epoch: tuple[int, int],
    batch: tuple[int, int | None],
    images_per_second: float,
    epoch_eta: float | None,
    run_eta: float | None,
) -> list[Part]:
    """As `training_line`, while an epoch is validated; the number of batches and the ETAs may be unknown, None."""
    return [
        _epoch_part(epoch),
        _step_part("validating ", batch),
        _throughput_part(images_per_second),
        *(_eta_parts(epoch_eta, run_eta) if epoch_eta is not None else ()),
    ]


def _epoch_part(epoch: tuple[int, int]) -> Part:
    return Part(3, "epoch {}/{}".format(*epoch))


def _step_part(what: str, step: tuple[int, int | None]) -> Part:
    text = what + "/".join(f"{number:,}" for number in step if number is not None)
    return Part(2, text, text.replace(",", ""))


def _throughput_part(images_per_second: float) -> Part:
    return Part(6, f"{images_per_second:,.0f} images/s", f"{images_per_second:.0f} img/s")


def _eta_parts(epoch_eta: float, run_eta: float | None) -> list[Part]:
    parts = [Part(1, f"ETA {duration(epoch_eta)}")]
    # In the last epoch they may be the same.
    if run_eta is not None and run_eta > epoch_eta:
        parts.append(Part(8, f"run {duration(run_eta)}"))
    return parts


class Pace:
    """How fast steps follow each other, without the first one, which is compiled and waits for the input to start."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def begin_step(self, step: int) -> None:
        """To be called before each step, numbered from 0."""
        if step == 1:
            self._begin_second = time.monotonic()

    def step_seconds(self, finished: int) -> float:
        """Seconds per step, after at least one; the first counts only until there is a second."""
        now = time.monotonic()
        return (now - self._begin_second) / (finished - 1) if finished > 1 else now - self._begin
