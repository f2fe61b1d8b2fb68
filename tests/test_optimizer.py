import gc

import keras
import numpy as np
import pytest
from cntk_reference import REFERENCE, build_reference_network, images_to_keras, to_keras
from tensorflow.python.framework.func_graph import FuncGraph

from keras_alexnet.compute import PORTABLE, Forms, compute_form
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.metrics import compile_model
from keras_alexnet.training.optimizer import SGDWithL2
from keras_alexnet.training.schedule import rate_in_epoch, step_schedule


@pytest.fixture(scope="module")
def trajectories():
    with np.load(REFERENCE / "cntk_sgd.npz") as file:
        return dict(file)


@pytest.mark.parametrize(
    ("variant", "forms"),
    [
        ("ug", PORTABLE),
        ("noug", Forms("blocks", "band")),
        ("noug_bigl2", PORTABLE),
        ("noug_bigl2", Forms("blocks", "slices", "slices")),
    ],
)
def test_trajectory_is_cntks(trajectories, variant, forms):
    """Four steps give CNTK's losses and weights, in any form; `noug_bigl2` has an L2 large enough to be seen."""
    rate, momentum, l2, _, unit_gain = trajectories[f"{variant}.hyper"]
    # CNTK's unit-gain momentum scales gradients by 1 - momentum.
    rate = rate * (1 - momentum) if unit_gain else rate
    model = build_reference_network(dropout=0.0)
    before = {layer.name: layer.get_weights() for layer in model.layers}
    network = compute_form(model, forms)
    compile_model(network, SGDWithL2(rate, momentum=momentum, l2=l2))
    for x, labels, loss in zip(
        trajectories["x"], trajectories["labels"], trajectories[f"{variant}.losses"], strict=True
    ):
        network.reset_metrics()
        results = network.train_on_batch(images_to_keras(x), labels, return_dict=True)
        assert results["loss"] == pytest.approx(loss, abs=1e-4)
    finals = [key for key in trajectories if key.startswith(f"{variant}.final.")]
    assert len(finals) == 12
    for key in finals:
        name, kind = key.split(".")[-2:]
        start, ours = (weights["Wb".index(kind)] for weights in (before[name], model.get_layer(name).get_weights()))
        final = to_keras(key, trajectories)
        assert np.abs(ours - final).max() <= 3e-7 + 1e-3 * np.abs(final - start).max(), key
        assert np.any(ours != start), key


@pytest.mark.parametrize(("momentum", "l2"), [(0.5, 0.25), (0, 0.0)])
def test_update_rule(momentum, l2):
    """v ← momentum·v + rate·(g + l2·w), w ← w - v, on one weight, by hand; the decay does not enter the loss."""
    variable = keras.Variable([2.0])
    optimizer = SGDWithL2(0.1, momentum=momentum, l2=l2)
    optimizer.build([variable])
    w, v = 2.0, 0.0
    for gradient in (1.0, -3.0, 0.5):
        optimizer.apply([keras.ops.convert_to_tensor([gradient])])
        v = momentum * v + 0.1 * (gradient + l2 * w)
        w = w - v
        np.testing.assert_allclose(variable.numpy(), [w], rtol=1e-6)


def test_a_trained_network_is_freed(tmp_path):
    """Keras's optimizers leave each network that they train in TensorFlow's registry of gradients."""

    def graphs() -> set[int]:
        gc.collect()
        return {id(item) for item in gc.get_objects() if issubclass(type(item), FuncGraph)}

    before = graphs()
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    model.compile(SGDWithL2(0.1), loss="mse", jit_compile=False)
    model.train_on_batch(np.zeros((1, 4)), np.zeros((1, 2)))
    own = graphs() - before
    assert own
    del inputs, model
    assert not own & graphs()


def test_rate_drops_at_the_first_step_of_the_next_epoch():
    schedule = step_schedule(0.5, (1, 3), 0.1, steps_per_epoch=4)
    rates = [float(schedule(step)) for step in range(16)]
    np.testing.assert_allclose(rates, [0.5] * 4 + [0.05] * 8 + [0.005] * 4, rtol=1e-6)
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
