"""What a run is made of, read and checked before it starts."""

import keras

from keras_alexnet.data.order import steps_per_pass
from keras_alexnet.training.config import TrainConfig


def open_data(config: TrainConfig):
    """Opens the data set that the settings name: `TrainingData`, or `SyntheticData`.

    Raises:
        UserError: the maps or the classes are wrong, or an image file is missing.
    """
    if config.synthetic_data:
        from keras_alexnet.data.synthetic import SyntheticData

        return SyntheticData(config.batch_size)
    # TensorFlow reads images; synthetic ones do without it under the other backends.
    from keras_alexnet.data.source import read_training_data

    data = read_training_data(config.data_dir)
    data.raise_if_missing()
    return data


def steps_in_epoch(config: TrainConfig, data) -> int:
    """Training steps per epoch; raises `UserError` where there are fewer images than a batch takes."""
    whole_pass = steps_per_pass(data.num_training, config.batch_size)
    return config.steps_per_epoch or whole_pass


def run_identity(config: TrainConfig, data) -> dict:
    """The settings, the backend and the data that define a run, by names for people."""
    return config.identity() | {"backend": keras.backend.backend()} | data.identity
