"""What a training run is made of: each setting, its default and its bounds, in one place. No framework is imported."""

import os
from dataclasses import asdict, dataclass

from keras_alexnet.errors import SettingError, integer_setting, real_setting
from keras_alexnet.presets import FREEZABLE, PRESETS
from keras_alexnet.system.file_names import to_utf8
from keras_alexnet.system.flagfile import flag_line

PRECISIONS = ("float32", "mixed_bfloat16")
STRATEGIES = ("auto", "none", "mirrored", "multi_worker")
JIT_COMPILE = ("auto", "on", "off")
CACHES = ("auto", "off")

# A run may resume with other values of these; any other change makes it another run.
_MAY_CHANGE = {
    "data_dir",
    "output_dir",
    "epochs",
    "strategy",
    "checkpoint_minutes",
    "log_every",
    "tensorboard",
    "report",
    "profile_steps",
    "deterministic",
    "cache",
}
_PATHS = ("data_dir", "output_dir", "initial_model")
_INTEGERS = {"epochs": (1,), "batch_size": (1,), "seed": (0, 2**32 - 1), "log_every": (0,)}
_NUMBERS = ("learning_rate", "lr_drop_factor", "momentum", "weight_decay", "dropout", "checkpoint_minutes")


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a run; the defaults are CNTK's recipe for ImageNet.

    Attributes:
        data_dir: directory with the maps and the class list, as `prepare_data` writes them.
        output_dir: directory for everything that the run writes; one per run.
        preset: network architecture, a key of `PRESETS`.
        epochs: epochs to train.
        steps_per_epoch: training steps per epoch; None for one pass over the data. Validation and a checkpoint follow
            each epoch.
        batch_size: images per step, over all devices.
        learning_rate: the initial one.
        lr_drop_epochs: numbers of finished epochs after which the learning rate decays, ascending; may be empty.
        lr_drop_factor: factor of each decay.
        momentum: of SGD.
        weight_decay: L2 regularization of all parameters, biases too, added to the gradient.
        dropout: rate after fc6 and fc7.
        precision: what layers compute in, "float32" or "mixed_bfloat16"; weights stay float32.
        seed: of weights, order, crops and dropout, 0 up to 2^32 - 1.
        strategy: "auto", "none", "mirrored" or "multi_worker": see `devices.choice.choose_devices`.
        jit_compile: whether XLA compiles the steps; "auto" for where that is faster.
        deterministic: use only deterministic algorithms on a GPU.
        initial_model: a `.keras` file of `build_alexnet` to initialize from; its architecture overrides `preset`.
        freeze_through: the last layer that is not trained, "conv1" to "fc7"; None to train all.
        synthetic_data: train on random images, to measure throughput; nothing is read, and no model is kept.
        cache: "auto" to keep decoded images in memory after the first epoch if they fit; or "off".
        checkpoint_minutes: minutes between checkpoints within an epoch.
        log_every: print a line every so many steps; 0 for only the progress line.
        tensorboard: write metrics for TensorBoard.
        report: write an HTML report at the end.
        profile_steps: numbers of finished steps at which a trace begins and ends; None for no trace.
    """

    data_dir: str = "data"
    output_dir: str = "saved_models/alexnet"
    preset: str = "cntk"
    epochs: int = 112
    steps_per_epoch: int | None = None
    batch_size: int = 256
    learning_rate: float = 0.01
    lr_drop_epochs: tuple[int, ...] = (25, 50, 75, 100)
    lr_drop_factor: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0005
    dropout: float = 0.5
    precision: str = "float32"
    seed: int = 0
    strategy: str = "auto"
    jit_compile: str = "auto"
    deterministic: bool = False
    initial_model: str | None = None
    freeze_through: str | None = None
    synthetic_data: bool = False
    cache: str = "auto"
    checkpoint_minutes: float = 10.0
    log_every: int = 0
    tensorboard: bool = False
    report: bool = False
    profile_steps: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Checks every bound; raises `UserError`."""
        for name in _PATHS:
            path = getattr(self, name)
            is_unset = path is None and name == "initial_model"
            _check(name, repr(path), is_unset or (isinstance(path, str | os.PathLike) and path != ""), "a path")
            self._set(name, path if is_unset else os.fspath(path))
        for name, bounds in _INTEGERS.items():
            self._set(name, integer_setting(name, getattr(self, name), *bounds))
        if self.steps_per_epoch is not None:
            self._set("steps_per_epoch", integer_setting("steps_per_epoch", self.steps_per_epoch, 1))
        for name in _NUMBERS:
            self._set(name, real_setting(name, getattr(self, name)))
        _check("preset", self.preset, self.preset in PRESETS, " or ".join(PRESETS))
        _check("learning_rate", self.learning_rate, 0 < self.learning_rate < float("inf"), "a number above 0")
        drops = self.lr_drop_epochs
        _check("lr_drop_epochs", repr(drops), isinstance(drops, tuple | list), "a tuple of epochs")
        drops = tuple(integer_setting("lr_drop_epochs", epoch, 1) for epoch in drops)
        self._set("lr_drop_epochs", drops)
        ascending = all(a < b for a, b in zip((0, *drops), drops, strict=False))
        _check("lr_drop_epochs", drops, ascending, "ascending epochs above 0, such as 25,50,75, or nothing")
        _check("lr_drop_factor", self.lr_drop_factor, 0 < self.lr_drop_factor <= 1, "above 0 and at most 1")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "0 or above and below 1")
        _check("weight_decay", self.weight_decay, 0 <= self.weight_decay < float("inf"), "0 or above")
        _check("dropout", self.dropout, 0 <= self.dropout < 1, "0 or above and below 1")
        _check("precision", self.precision, self.precision in PRECISIONS, " or ".join(PRECISIONS))
        _check("strategy", self.strategy, self.strategy in STRATEGIES, ", ".join(STRATEGIES))
        _check("cache", self.cache, self.cache in CACHES, ", ".join(CACHES))
        _check("jit_compile", self.jit_compile, self.jit_compile in JIT_COMPILE, ", ".join(JIT_COMPILE))
        layers, layer = FREEZABLE, self.freeze_through
        _check("freeze_through", layer, layer is None or layer in layers, ", ".join(layers))
        if layer and not self.initial_model:
            raise SettingError(
                "freeze_through",
                f"is {layer}, but without --initial_model: the frozen layers would keep their random weights. Pass the "
                "model to start from, or leave out --freeze_through.",
            )
        if self.initial_model and _folder(self.initial_model) == os.path.realpath(self.output_dir):
            raise SettingError(
                "initial_model",
                f"is {self.initial_model}, in the output directory, where this run replaces the models. Choose another "
                "--output_dir.",
            )
        minutes = self.checkpoint_minutes
        _check("checkpoint_minutes", minutes, 0 < minutes < float("inf"), "a number above 0; fractions are minutes too")
        if self.profile_steps:
            steps = self.profile_steps
            _check("profile_steps", repr(steps), isinstance(steps, tuple | list) and len(steps) == 2, "two numbers")
            first, last = (integer_setting("profile_steps", step, 0) for step in steps)
            self._set("profile_steps", (first, last))
            _check("profile_steps", f"{first}:{last}", 0 <= first < last, "FROM:TO with 0 <= FROM < TO, such as 10:20")

    def _set(self, name: str, value: object) -> None:
        """Sets an attribute of the frozen object: plain values, as files have them, in place of NumPy's and `Path`s."""
        object.__setattr__(self, name, value)

    def identity(self) -> dict:
        """The settings that make a run what it is, as JSON has them: a checkpoint of other ones is another run's."""
        values = {name: value for name, value in self._absolute().items() if name not in _MAY_CHANGE}
        return values | {"lr_drop_epochs": list(self.lr_drop_epochs)}

    def flagfile(self) -> str:
        """The settings as the lines of a flagfile for `python -m keras_alexnet.fit`."""
        values = {name: value for name, value in self._absolute().items() if value is not None}
        values["lr_drop_epochs"] = ",".join(str(epoch) for epoch in self.lr_drop_epochs)
        if self.profile_steps:
            values["profile_steps"] = "{}:{}".format(*self.profile_steps)
        return "".join(flag_line(name, value) for name, value in values.items())

    def _absolute(self) -> dict:
        """The settings, for files; paths mean the same in any working directory."""
        values = asdict(self)
        return values | {name: to_utf8(os.path.abspath(values[name])) for name in _PATHS if values[name] is not None}


def _folder(path: str) -> str:
    return os.path.dirname(os.path.realpath(path))


def _check(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise SettingError(name, f"is {value}; expected {expected}.")
