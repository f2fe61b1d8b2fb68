"""Builds what a run saves, the model, and what it trains, the model's compute form."""

import functools

import keras

from keras_alexnet.compute import Forms, choose_forms, compute_form
from keras_alexnet.model import build_alexnet, read_preset, set_precision
from keras_alexnet.presets import PRESETS, describe
from keras_alexnet.training.checkpoint import build_variables
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.devices.base import Devices
from keras_alexnet.training.initial import build_from, freeze_through
from keras_alexnet.training.metrics import compile_model
from keras_alexnet.training.optimizer import SGDWithL2
from keras_alexnet.training.schedule import step_schedule


def build_model(config: TrainConfig, num_classes: int) -> keras.Model:
    """Builds the model of a run, in the form that is saved; call it in the scope of the devices."""
    if config.initial_model:
        model = build_from(config.initial_model, num_classes, dropout=config.dropout, seed=config.seed)
    else:
        model = build_alexnet(num_classes, preset=config.preset, dropout=config.dropout, seed=config.seed)
    if config.freeze_through:
        freeze_through(model, config.freeze_through)
    set_precision(model, config.precision)
    return model


def architecture(config: TrainConfig, model: keras.Model) -> str:
    """The architecture parameters of a run's model in words: checkpoints have them, as weights do not show them all."""
    return describe(read_preset(model) if config.initial_model else PRESETS[config.preset])


def build_network(
    model: keras.Model, config: TrainConfig, steps_per_epoch: int, devices: Devices, forms: Forms | None = None
) -> keras.Model:
    """Builds the compute form of a model, compiled and with all variables; call it in the scope of the devices.

    Args:
        model: returned by `build_model`.
        config: the settings.
        steps_per_epoch: training steps per epoch.
        devices: the devices to train on.
        forms: the forms of its layers; None for the fastest known.
    """
    jit_compile = devices.jit_compile(config.jit_compile)
    if forms is None:
        forms = choose_forms(devices.platform, config.precision, compiled=jit_compile)
    network_class = keras.Model
    if keras.backend.backend() == "tensorflow":
        from keras_alexnet.training.tensorflow_network import TensorFlowNetwork

        compile_replicas = devices.per_replica_xla and jit_compile
        network_class = functools.partial(TensorFlowNetwork, wait=devices.wait, compile_replicas=compile_replicas)
    network = compute_form(model, forms, network_class=network_class)
    schedule = step_schedule(config.learning_rate, config.lr_drop_epochs, config.lr_drop_factor, steps_per_epoch)
    optimizer = SGDWithL2(schedule, momentum=config.momentum, l2=config.weight_decay)
    compile_model(network, optimizer, jit_compile=jit_compile and not devices.per_replica_xla)
    build_variables(network)
    devices.adapt(network)
    return network
