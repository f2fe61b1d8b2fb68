import numpy as np
import pytest

from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.optimizer import SGDWithL2
from keras_alexnet.training.schedule import rate_in_epoch, step_schedule


def test_rate_drops_at_the_first_step_of_the_next_epoch():
    schedule = step_schedule(0.5, (1, 3), 0.1, steps_per_epoch=4)
    rates = [float(schedule(step)) for step in range(16)]
    np.testing.assert_allclose(rates, [0.5] * 4 + [0.05] * 8 + [0.005] * 4, rtol=1e-6)


def test_optimizer_uses_the_rate_of_its_step():
    optimizer = SGDWithL2(step_schedule(0.5, (1,), 0.1, steps_per_epoch=2))
    optimizer.iterations.assign(1)
    assert float(optimizer.learning_rate) == pytest.approx(0.5)
    optimizer.iterations.assign(2)
    assert float(optimizer.learning_rate) == pytest.approx(0.05)


def test_no_drops_is_a_constant():
    assert step_schedule(0.01, (), 0.1, steps_per_epoch=4) == 0.01


def test_cntks_recipe_is_the_default():
    config = TrainConfig()
    recipe = (config.learning_rate, config.lr_drop_epochs, config.lr_drop_factor)
    rates = [rate_in_epoch(epoch, *recipe) for epoch in range(config.epochs)]
    expected = [0.01] * 25 + [0.001] * 25 + [0.0001] * 25 + [0.00001] * 25 + [0.000001] * 12
    np.testing.assert_allclose(rates, expected)
    schedule = step_schedule(*recipe, steps_per_epoch=5004)
    assert [float(schedule(epoch * 5004)) for epoch in (0, 25, 111)] == pytest.approx([0.01, 0.001, 1e-6])


def test_drops_beyond_what_steps_are_counted_to():
    schedule = step_schedule(0.5, (1, 10**9), 0.1, steps_per_epoch=5000)
    assert schedule.boundaries == [4999, 2**31 - 1]
    assert float(schedule(5000)) == pytest.approx(0.05)
