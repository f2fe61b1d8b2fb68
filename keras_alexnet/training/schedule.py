"""The learning rate, step by step."""

from collections.abc import Sequence

import keras


def step_schedule(
    learning_rate: float, drop_epochs: Sequence[int], drop_factor: float, steps_per_epoch: int
) -> keras.optimizers.schedules.PiecewiseConstantDecay | float:
    """`learning_rate`, times `drop_factor` after each of `drop_epochs` finished epochs: a function of the step."""
    if not drop_epochs:
        return learning_rate
    # PiecewiseConstantDecay still gives the old rate at the boundary itself: the last step of an epoch.
    # No run gets beyond the largest int32, which is all that JAX counts to.
    boundaries = [min(epoch * steps_per_epoch - 1, 2**31 - 1) for epoch in drop_epochs]
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        boundaries, [rate_in_epoch(epoch, learning_rate, drop_epochs, drop_factor) for epoch in (0, *drop_epochs)]
    )


def rate_in_epoch(epoch: int, learning_rate: float, drop_epochs: Sequence[int], drop_factor: float) -> float:
    """The rate of `epoch`, counted from 0."""
    return learning_rate * drop_factor ** sum(epoch >= drop for drop in drop_epochs)
