"""Trains AlexNet on the map files written by prepare.

    python -m keras_alexnet.fit --flagfile=flags/fit_imagenet.flags --data_dir=data --output_dir=saved_models/alexnet

The defaults are CNTK's recipe for ImageNet. Ctrl-C, SIGTERM and SIGHUP (a closed terminal) finish the current step,
save a checkpoint and exit; run the same command again to resume, whatever stopped the run. The output directory
contains model.keras and best.keras (the last weights, and those with the lowest validation error; stock Keras loads
them) with their classes.txt, history.csv, run.json, flags.txt and checkpoint/. The environment variable KERAS_BACKEND
selects tensorflow (the default), jax or torch.

Exit status: 0 success; 1 an error, or a lost worker; 130 Ctrl-C; 143 SIGTERM; 129 SIGHUP.
"""

import dataclasses

from absl import flags

from keras_alexnet import cli
from keras_alexnet.errors import SettingError
from keras_alexnet.presets import FREEZABLE, PRESETS
from keras_alexnet.report.check import check_run_report
from keras_alexnet.system.determinism import set_environment
from keras_alexnet.system.progress import say
from keras_alexnet.training.config import CACHES, JIT_COMPILE, PRECISIONS, STRATEGIES, TrainConfig


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines a flag for each field of `TrainConfig`, whose defaults and bounds they have, and `--restart`."""
    default = TrainConfig()

    def define(function, name: str, help_text: str, *arguments) -> None:
        value = getattr(default, name)
        value = [str(item) for item in value] if isinstance(value, tuple) else value
        function(name, value, *arguments, help_text, flag_values=flag_values)

    define(cli.define_path, "data_dir", "Folder with train_map.txt, val_map.txt and classmappings.txt.")
    define(cli.define_path, "output_dir", "Output directory; one per run.")
    define(
        flags.DEFINE_string,
        "preset",
        f"Network architecture: {', '.join(PRESETS)}; tiny is cntk with narrow layers, for quick trials.",
    )
    define(flags.DEFINE_integer, "epochs", "Epochs to train. Does not rescale the learning-rate schedule.")
    define(
        flags.DEFINE_integer,
        "steps_per_epoch",
        "Training steps per epoch; validation and a checkpoint follow each epoch. Default: one pass over the data, "
        "without the images that do not fill a batch. "
        "Does not change the order of images.",
    )
    define(flags.DEFINE_integer, "batch_size", "Images per step, over all devices.")
    define(flags.DEFINE_float, "learning_rate", "Initial learning rate.")
    define(
        flags.DEFINE_list, "lr_drop_epochs", "Learning-rate decay: numbers of finished epochs, ascending; may be empty."
    )
    define(flags.DEFINE_float, "lr_drop_factor", "Factor of each learning-rate decay.")
    define(flags.DEFINE_float, "momentum", "Momentum of SGD.")
    define(flags.DEFINE_float, "weight_decay", "L2 regularization of all parameters, added to the gradient.")
    define(flags.DEFINE_float, "dropout", "Dropout rate after fc6 and fc7.")
    define(flags.DEFINE_enum, "precision", "Compute precision; weights stay float32.", list(PRECISIONS))
    define(flags.DEFINE_integer, "seed", "Seed of weights, order, crops and dropout.")
    define(
        flags.DEFINE_enum,
        "strategy",
        "auto: the workers named by the environment, if any (TF_CONFIG under TensorFlow, KERAS_DISTRIBUTION_… "
        "under JAX), otherwise all GPUs if there are several, otherwise one device; none: one device; mirrored: all "
        "GPUs of this machine, or its logical CPUs if it has none; multi_worker: the workers named by the environment.",
        list(STRATEGIES),
    )
    define(
        flags.DEFINE_enum,
        "jit_compile",
        "Compile the steps with XLA. auto: on GPUs and under JAX, where it is faster. With several devices or workers "
        "under TensorFlow, XLA compiles the forward and backward pass of each replica.",
        list(JIT_COMPILE),
    )
    define(
        flags.DEFINE_bool,
        "deterministic",
        "Use only deterministic algorithms on a GPU, which may be slower. Runs on a CPU are bit-identical anyway.",
    )
    define(
        cli.define_path,
        "initial_model",
        "Initialize all layers from this .keras file, whose architecture overrides --preset. With another number "
        "of classes, fc8 is initialized randomly.",
    )
    define(
        flags.DEFINE_enum,
        "freeze_through",
        "Freeze the layers up to this one: conv5 trains only fc6, fc7 and fc8.",
        list(FREEZABLE),
    )
    define(
        flags.DEFINE_bool,
        "synthetic_data",
        "Train on the same random images repeatedly, without any files, to measure the throughput of the devices.",
    )
    define(
        flags.DEFINE_enum,
        "cache",
        "auto: if all decoded images fit into half of the free memory, keep them there during the first epoch, so that "
        "later epochs need no decoding; off: never. The pixels are the same.",
        list(CACHES),
    )
    define(
        flags.DEFINE_float,
        "checkpoint_minutes",
        "Minutes between checkpoints within an epoch; may be a fraction. Each epoch ends with a checkpoint, too.",
    )
    define(
        flags.DEFINE_integer,
        "log_every",
        "Steps between printed lines of progress, and between points for --tensorboard within an epoch; 0 for none.",
    )
    define(flags.DEFINE_bool, "tensorboard", "Write metrics for TensorBoard to output_dir/tensorboard.")
    define(
        flags.DEFINE_bool,
        "report",
        "Write an HTML report on the validation images at the end of training, output_dir/report/report.html, like "
        "evaluate --report_dir.",
    )
    define(
        flags.DEFINE_string,
        "profile_steps",
        "FROM:TO, such as 10:20: write a trace of the steps of the run from when FROM are finished until TO are to "
        "output_dir/profile, for TensorBoard with xprof (TensorFlow, JAX) and Perfetto (JAX, PyTorch). The first steps "
        "of a start compile and warm up; ten later ones show most.",
    )
    cli.define_compilation_cache(flag_values)
    flags.DEFINE_bool("restart", False, "Discard the existing run and start over.", flag_values=flag_values)
    flags.DEFINE_bool(
        "dry_run",
        False,
        "Check the setup and estimate time, memory and disk; write nothing.",
        flag_values=flag_values,
    )


def config_from(values: flags.FlagValues) -> TrainConfig:
    """The run that the flags describe; raises `UserError` where one is out of bounds."""
    settings = {field.name: values[field.name].value for field in dataclasses.fields(TrainConfig)}
    try:
        settings["lr_drop_epochs"] = tuple(int(epoch) for epoch in values.lr_drop_epochs)
    except ValueError:
        raise SettingError(
            "lr_drop_epochs", f"is {','.join(values.lr_drop_epochs)}; expected ascending epochs, such as 25,50,75."
        ) from None
    if values.profile_steps is not None:
        try:
            first, last = values.profile_steps.split(":")
            settings["profile_steps"] = int(first), int(last)
        except ValueError:
            raise SettingError(
                "profile_steps", f"is {values.profile_steps}; expected FROM:TO, such as 10:20."
            ) from None
    return TrainConfig(**settings)


def main(values: flags.FlagValues, arguments: list[str]) -> None:
    """Trains."""
    cli.reject_positional(arguments)
    config = config_from(values)
    check_run_report(config)
    if config.deterministic:
        set_environment()
    # Cached programs would lack the layer names that a trace shows.
    cache = "off" if config.profile_steps else values.compilation_cache
    with cli.quiet_framework_start(cache, report_cache=say):
        from keras_alexnet.report.train import train
        from keras_alexnet.training.dry_run import dry_run

        if not config.synthetic_data:
            # Imports TensorFlow, to read images, under any backend.
            import keras_alexnet.data.source  # noqa: F401
    (dry_run if values.dry_run else train)(config, restart=values.restart)


_GROUPS = {
    "Data": "data_dir synthetic_data cache",
    "Network": "preset=NAME initial_model freeze_through",
    "Recipe": "epochs steps_per_epoch batch_size learning_rate lr_drop_epochs=N,N,… lr_drop_factor momentum "
    "weight_decay dropout seed",
    "Devices": "strategy precision jit_compile deterministic compilation_cache",
    "Output": "output_dir restart dry_run checkpoint_minutes log_every report tensorboard profile_steps=FROM:TO",
}
COMMAND = cli.Command(main, define_flags, __doc__, _GROUPS)

if __name__ == "__main__":
    cli.run(COMMAND)
