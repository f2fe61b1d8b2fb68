"""Trains AlexNet on the maps of python -m keras_alexnet.prepare.

    python -m keras_alexnet.fit --flagfile=flags/fit_imagenet.flags --data_dir=data --output_dir=saved_models/alexnet

Without flags it is CNTK's recipe for ImageNet. Ctrl-C, SIGTERM and SIGHUP (a closed terminal) save and stop; whatever
has stopped a run, the same command goes on with it. The output folder gets model.keras and best.keras (the last
weights, and those of the lowest validation error; stock Keras loads them) with their classes.txt, history.csv,
run.json, flags.txt and checkpoint/. The variable KERAS_BACKEND chooses tensorflow (the default), jax or torch.

Exit status: 0 success; 1 a mistake, or a worker that was lost; 130 Ctrl-C; 143 SIGTERM; 129 SIGHUP.
"""

import dataclasses

from absl import flags

from keras_alexnet import cli
from keras_alexnet.errors import UserError
from keras_alexnet.presets import FREEZABLE, PRESETS
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
    define(cli.define_path, "output_dir", "Folder for all that a run leaves; another run needs another one.")
    define(
        flags.DEFINE_string,
        "preset",
        f"The network: {', '.join(PRESETS)}; tiny is cntk with narrow layers, for trying things.",
    )
    define(flags.DEFINE_integer, "epochs", "Epochs to train; never rescales the learning rate's schedule.")
    define(
        flags.DEFINE_integer,
        "steps_per_epoch",
        "Steps after which to validate and save; unset for a pass over the data. Does not change the order of images.",
    )
    define(flags.DEFINE_integer, "batch_size", "Images a step, over all devices.")
    define(flags.DEFINE_float, "learning_rate", "Learning rate at the start.")
    define(flags.DEFINE_list, "lr_drop_epochs", "Finished epochs after which the rate drops, ascending; may be empty.")
    define(flags.DEFINE_float, "lr_drop_factor", "What each drop multiplies the rate by.")
    define(flags.DEFINE_float, "momentum", "Momentum of SGD.")
    define(flags.DEFINE_float, "weight_decay", "L2 regularization of every parameter, added to its gradient.")
    define(flags.DEFINE_float, "dropout", "Dropout rate after fc6 and fc7.")
    define(flags.DEFINE_enum, "precision", "What the layers compute in; weights are float32.", list(PRECISIONS))
    define(flags.DEFINE_integer, "seed", "Seed of weights, order, crops and dropout.")
    define(
        flags.DEFINE_enum,
        "strategy",
        "auto: the workers that the environment names if it does (TF_CONFIG under TensorFlow, KERAS_DISTRIBUTION_… "
        "under JAX), else all GPUs if there are several, else one device; none: one device; mirrored: all GPUs of "
        "this machine, or its logical CPUs where there is none; multi_worker: the workers of the environment.",
        list(STRATEGIES),
    )
    define(
        flags.DEFINE_enum,
        "jit_compile",
        "Compile the steps with XLA. auto: on GPUs and under JAX, where it is faster. With several devices or workers "
        "under TensorFlow, the forward and backward pass of each replica are compiled.",
        list(JIT_COMPILE),
    )
    define(
        flags.DEFINE_bool,
        "deterministic",
        "Use only deterministic algorithms on a GPU, at some cost. Runs on a CPU are bit-identical anyway.",
    )
    define(
        cli.define_path,
        "initial_model",
        "Start from the weights of this .keras file, whose sizes then count instead of the preset's; with another "
        "number of classes fc8 is new.",
    )
    define(
        flags.DEFINE_enum,
        "freeze_through",
        "Leave the layers up to this one as they are, such as conv5 to train fc6, fc7 and fc8 alone.",
        list(FREEZABLE),
    )
    define(
        flags.DEFINE_bool,
        "synthetic_data",
        "Train on the same random images again and again, without any files, to find the limit of the devices.",
    )
    define(
        flags.DEFINE_enum,
        "cache",
        "auto: if all decoded images fit into half of the free memory, keep them there from the first epoch on, so "
        "that later epochs need no decoding; off: never. The pixels are the same.",
        list(CACHES),
    )
    define(
        flags.DEFINE_float,
        "checkpoint_minutes",
        "Minutes between checkpoints, fractions too; there is one after each epoch as well.",
    )
    define(
        flags.DEFINE_integer,
        "log_every",
        "Steps between printed lines of progress, and between the points of --tensorboard within an epoch; 0 for none.",
    )
    define(flags.DEFINE_bool, "tensorboard", "Write points for TensorBoard to output_dir/tensorboard.")
    define(
        flags.DEFINE_bool,
        "report",
        "End with a report on the validation images, output_dir/report/report.html, as that of evaluate --report_dir.",
    )
    define(
        flags.DEFINE_string,
        "profile_steps",
        "FROM:TO, such as 10:20: write a trace of the steps of the run from when FROM are finished until TO are to "
        "output_dir/profile, for TensorBoard with xprof (TensorFlow, JAX) and Perfetto (JAX, PyTorch). The first steps "
        "of a start compile and warm up; ten later ones show most.",
    )
    cli.define_compilation_cache(flag_values)
    flags.DEFINE_bool("restart", False, "Throw away the run that output_dir holds.", flag_values=flag_values)
    flags.DEFINE_bool(
        "dry_run",
        False,
        "Try everything that the run needs, say what it will cost, and write nothing.",
        flag_values=flag_values,
    )


def config_from(values: flags.FlagValues) -> TrainConfig:
    """The run that the flags describe; raises `UserError` where one is out of bounds."""
    settings = {field.name: values[field.name].value for field in dataclasses.fields(TrainConfig)}
    try:
        settings["lr_drop_epochs"] = tuple(int(epoch) for epoch in values.lr_drop_epochs)
    except ValueError:
        raise UserError(
            f"lr_drop_epochs is {','.join(values.lr_drop_epochs)}; expected ascending epochs, such as 25,50,75."
        ) from None
    if values.profile_steps is not None:
        try:
            first, last = values.profile_steps.split(":")
            settings["profile_steps"] = int(first), int(last)
        except ValueError:
            raise UserError(f"profile_steps is {values.profile_steps}; expected FROM:TO, such as 10:20.") from None
    return TrainConfig(**settings)


def main(values: flags.FlagValues, arguments: list[str]) -> None:
    """Trains."""
    cli.reject_positional(arguments)
    config = config_from(values)
    if config.deterministic:
        set_environment()
    # Cached programs would lack the layer names that a trace shows.
    cache = "off" if config.profile_steps else values.compilation_cache
    with cli.quiet_framework_start(cache, report_cache=say):
        from keras_alexnet.training.dry_run import dry_run
        from keras_alexnet.training.loop import train

        if not config.synthetic_data:
            # Imports TensorFlow, to read images, under any backend.
            import keras_alexnet.data.source  # noqa: F401
    (dry_run if values.dry_run else train)(config, restart=values.restart)


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
