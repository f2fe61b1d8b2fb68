import gc
import subprocess
import sys

import keras
import numpy as np
import pytest
from cntk_reference import REFERENCE, build_reference_network, images_to_keras, to_keras
from tensorflow.python.framework.func_graph import FuncGraph

from keras_alexnet.compute import PORTABLE, Forms, compute_form
from keras_alexnet.training.metrics import compile_model
from keras_alexnet.training.optimizer import SGDWithL2


@pytest.fixture(scope="module")
def trajectories():
    with np.load(REFERENCE / "cntk_sgd.npz") as file:
        return dict(file)


@pytest.mark.parametrize("forms", [PORTABLE, Forms("blocks", "band"), Forms("blocks", "slices", "slices")])
@pytest.mark.parametrize("variant", ["ug", "noug", "noug_bigl2"])
def test_trajectory_is_cntks(trajectories, variant, forms):
    """Four steps give CNTK's losses and weights, in any form; `noug_bigl2` has an L2 large enough to be seen."""
    rate, momentum, l2, _, unit_gain = trajectories[f"{variant}.hyper"]
    # CNTK's unit-gain momentum scales gradients by 1 - momentum.
    rate = rate * (1 - momentum) if unit_gain else rate
    model = build_reference_network(dropout=0.0)
    before = {name: model.get_layer(name).get_weights() for name in ("conv1", "fc8")}
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
        start = build_reference_network().get_layer(name).get_weights()["Wb".index(kind)]
        final, ours = to_keras(key, trajectories), model.get_layer(name).get_weights()["Wb".index(kind)]
        assert np.abs(ours - final).max() <= 3e-7 + 1e-3 * np.abs(final - start).max(), key
    assert all(np.any(model.get_layer(name).get_weights()[0] != old[0]) for name, old in before.items())


def test_update_rule():
    """v ← momentum·v + rate·(g + l2·w), w ← w - v, on one weight, by hand; the decay does not enter the loss."""
    variable = keras.Variable([2.0])
    optimizer = SGDWithL2(0.1, momentum=0.5, l2=0.25)
    optimizer.build([variable])
    w, v = 2.0, 0.0
    for gradient in (1.0, -3.0, 0.5):
        optimizer.apply([keras.ops.convert_to_tensor([gradient])])
        v = 0.5 * v + 0.1 * (gradient + 0.25 * w)
        w = w - v
        np.testing.assert_allclose(variable.numpy(), [w], rtol=1e-6)


def test_momentum_and_decay_may_be_nothing():
    variable = keras.Variable([2.0])
    optimizer = SGDWithL2(0.5, momentum=0, l2=0.0)
    optimizer.build([variable])
    optimizer.apply([keras.ops.convert_to_tensor([1.0])])
    optimizer.apply([keras.ops.convert_to_tensor([1.0])])
    np.testing.assert_array_equal(variable.numpy(), [1.0])


def test_config_round_trip():
    assert SGDWithL2.from_config(SGDWithL2(0.1, l2=0.25).get_config()).l2 == 0.25


OUTSIDE = """
from keras_alexnet import cli
with cli.quiet_framework_start():
    import keras, numpy as np, tensorflow as tf
    from keras_alexnet.training.optimizer import SGDWithL2
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
optimizer = SGDWithL2(0.1, momentum=0.0)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile(optimizer, loss="mse")
model.fit(np.eye(2, dtype="float32"), np.array([[1.0], [-2.0]]), batch_size=2, verbose=0)
kernels = [replica.numpy() for replica in model.layers[1].kernel.value.values]
assert np.array_equal(*kernels), kernels
"""


@pytest.mark.slow
def test_replicas_stay_the_same_where_the_optimizer_is_made_outside_their_scope():
    result = subprocess.run([sys.executable, "-c", OUTSIDE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


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
