import pytest
from benchmark_process import check_spread, figures_of, run
from benchmarks import common, layer_costs
from benchmarks.attribution import Attribution, divide

from keras_alexnet.model import build_alexnet, set_precision
from keras_alexnet.presets import Preset

WEIGHTED = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
# The network's rows, and those of no layer.
ROWS = [
    *("input_mean", "conv1", "norm1", "pool1", "conv2", "norm2", "pool2", "conv3", "conv4", "conv5", "pool5"),
    *("fc6", "drop6", "fc7", "drop7", "fc8", "loss and metrics", "optimizer"),
]
# The images become 15, 7, 3 and 1 pixels wide.
SMALL = Preset(filters=(2, 3, 4, 4, 2), dense_units=5, image_size=67)


def test_costs_of_a_small_network():
    costs = layer_costs.costs(build_alexnet(3, preset=SMALL), batch_size=2)
    assert list(costs) == ROWS
    found = {
        row: (cost.forward_flop, cost.backward_flop, cost.forward_bytes, cost.backward_bytes)
        for row, cost in costs.items()
    }
    # 2 × 67 × 67 × 3 pixels, of one byte and of four.
    assert found["input_mean"] == (0, 0, 26934 * 5, 0)
    # 2 × 15 × 15 × 2 results of 11 × 11 × 3 multiply-adds each, 728 weights. There is no gradient of the images.
    assert found["conv1"] == (653400, 653400, 107736 + 2912 + 3600, 107736 + 3600 + 2912 + 3600)
    assert found["norm1"] == (0, 0, 2 * 3600, 3 * 3600)
    assert found["pool1"] == (0, 0, 3600 + 784, 3600 + 784 + 3600)
    # 2 × 7 × 7 × 3 results of 5 × 5 × 2 multiply-adds each, 153 weights; the last array is what the ReLU reads again.
    assert found["conv2"] == (29400, 58800, 784 + 612 + 1176, 2 * 784 + 2 * 612 + 1176 + 1176)
    assert found["fc6"] == (40, 80, 16 + 60 + 40, 2 * 16 + 2 * 60 + 40 + 40)
    assert found["drop6"] == (0, 0, 2 * 40, 3 * 40)
    assert found["fc8"] == (60, 120, 40 + 72 + 24, 2 * 40 + 2 * 72 + 24)
    assert found["loss and metrics"] == (0, 0, 24, 48)
    # Of 1278 parameters.
    assert found["optimizer"] == (0, 0, 0, 1278 * 5 * 4)


def test_costs_in_bfloat16_halve_the_activations_alone():
    model = build_alexnet(3, preset=SMALL)
    set_precision(model, "mixed_bfloat16")
    costs = layer_costs.costs(model, batch_size=2)
    assert costs["input_mean"].forward_bytes == 26934 * 3
    assert costs["conv2"].forward_bytes == 392 + 612 + 588
    assert costs["conv2"].backward_bytes == 2 * 392 + 2 * 612 + 588 + 588
    assert costs["conv2"].forward_flop == 29400
    assert costs["optimizer"].bytes == 1278 * 5 * 4
    assert {row: costs[row].dtype for row in WEIGHTED} == dict.fromkeys(WEIGHTED, "bfloat16") | {"fc8": "float32"}


@pytest.mark.parametrize(("preset", "forward", "step"), [("cntk", 986, 5.7), ("torchvision", 714, 4.14)])
def test_costs_of_the_known_networks(preset, forward, step):
    costs = layer_costs.costs(build_alexnet(preset=preset), batch_size=32)
    assert sum(cost.forward_flop for cost in costs.values()) / 2 / 32 / 1e6 == pytest.approx(forward, abs=0.5)
    assert sum(cost.flop for cost in costs.values()) / 32 / 1e9 == pytest.approx(step, abs=0.01)
    assert costs["optimizer"].bytes == {"cntk": 62_003_496, "torchvision": 61_100_840}[preset] * 20


def test_time_is_divided_among_what_runs():
    assert divide([(12, 14, "a"), (0, 10, "a"), (4, 8, "b")]) == {"a": 4 + 2 + 2 + 2, "b": 2, None: 2}
    assert divide([(0, 4, "a"), (0, 4, "a"), (0, 4, "b"), (4, 6, "a")]) == pytest.approx(
        {"a": 4 * 2 / 3 + 2, "b": 4 / 3}
    )


def test_operations_without_a_layer_go_to_the_layer_that_they_lead_to():
    forward = {
        "alexnet_1/relu1_1/Relu": [],
        "alexnet_1/Cast": ["alexnet_1/relu1_1/Relu"],
        "alexnet_1/Square": ["alexnet_1/Cast"],
        "alexnet_1/Rsqrt": ["alexnet_1/Square"],
        "alexnet_1/norm1_1/Mul": ["alexnet_1/Cast", "alexnet_1/Rsqrt"],
        "alexnet_1/Cast_1": ["alexnet_1/norm1_1/Mul"],
        "alexnet_1/pool1_1/MaxPool2d": ["alexnet_1/Cast_1"],
        "ArgMax": ["alexnet_1/pool1_1/MaxPool2d"],
    }
    tape = "gradient_tape/alexnet_1"
    backward = {
        "gradient_tape/compile_loss/mul": ["compile_loss/Sum"],
        f"{tape}/pool1_1/MaxPoolGrad": ["alexnet_1/Cast_1", "gradient_tape/compile_loss/mul"],
        f"{tape}/Cast_1/Cast": [f"{tape}/pool1_1/MaxPoolGrad"],
        f"{tape}/norm1_1/Mul": [f"{tape}/Cast_1/Cast", "alexnet_1/Rsqrt"],
        f"{tape}/norm1_1/Mul_1": [f"{tape}/Cast_1/Cast", "alexnet_1/Cast"],
        f"{tape}/RsqrtGrad": ["alexnet_1/Rsqrt", f"{tape}/norm1_1/Mul_1"],
        "AddN": [f"{tape}/norm1_1/Mul", f"{tape}/RsqrtGrad"],
        f"{tape}/Shape": [],
        f"{tape}/relu1_1/ReluGrad": ["AddN"],
        "sgd_with_l2/Mul": [f"{tape}/relu1_1/ReluGrad"],
    }
    graph = forward | backward
    attribution = Attribution(graph, ["relu1", "norm1", "pool1"], "sgd_with_l2")
    assert {name: attribution.row(name) for name in (*graph, "IteratorGetNext")} == {
        "alexnet_1/relu1_1/Relu": ("conv1", False),
        "alexnet_1/Cast": ("norm1", False),
        "alexnet_1/Square": ("norm1", False),
        "alexnet_1/Rsqrt": ("norm1", False),
        "alexnet_1/norm1_1/Mul": ("norm1", False),
        "alexnet_1/Cast_1": ("pool1", False),
        "alexnet_1/pool1_1/MaxPool2d": ("pool1", False),
        "ArgMax": ("loss and metrics", False),
        "gradient_tape/compile_loss/mul": ("loss and metrics", True),
        f"{tape}/pool1_1/MaxPoolGrad": ("pool1", True),
        f"{tape}/Cast_1/Cast": ("pool1", True),
        f"{tape}/norm1_1/Mul": ("norm1", True),
        f"{tape}/norm1_1/Mul_1": ("norm1", True),
        f"{tape}/RsqrtGrad": ("norm1", True),
        "AddN": ("norm1", True),
        f"{tape}/Shape": ("other", True),
        f"{tape}/relu1_1/ReluGrad": ("conv1", True),
        "sgd_with_l2/Mul": ("optimizer", True),
        "IteratorGetNext": ("other", False),
    }


@pytest.mark.slow
def test_layers_measures_every_layer_and_writes_the_figures(tmp_path):
    small = ["--network=tiny", "--batch_size=4", "--steps=2", "--repeats=2", "--matrix_sizes", 64, 96, "--array_mb=1"]
    figures, printed = figures_of(tmp_path, "layers", *small)
    assert "NaN" not in (tmp_path / "figures.json").read_text()
    assert (figures["network"], figures["batch_size"], figures["steps"], figures["repeats"]) == ("tiny", 4, 2, 2)
    limits = figures["limits"]
    assert set(limits) == {"float32_gflop_per_second", "bfloat16_gflop_per_second", "memory_gb_per_second"}
    for limit, name in (("float32", "float32 products"), ("bfloat16", "bfloat16 products"), ("memory", "memory")):
        sides = [figure for side, figure in figures["limit_sides"].items() if side.startswith(f"{name}, ")]
        for figure in sides:
            check_spread(figure)
        best = limits[f"{limit}_{'gb' if limit == 'memory' else 'gflop'}_per_second"]
        assert best == max(figure["median"] for figure in sides)

    assert list(figures["precisions"]) == ["float32", "bfloat16"]
    for precision, found in figures["precisions"].items():
        model = build_alexnet(preset="tiny")
        set_precision(model, common.PRECISIONS[precision])
        costs = layer_costs.costs(model, 4)
        rows = {row["layer"]: row for row in found["layers"]}
        assert list(rows) == [*ROWS, "other", "none"]
        for layer in ROWS:
            row, cost = rows[layer], costs[layer]
            check_spread(row["milliseconds"])
            assert (row["gflop"], row["mb"]) == (cost.flop / 1e9, cost.bytes / 1e6)
            least = {
                "products": 1e3 * row["gflop"] / limits[f"{cost.dtype}_gflop_per_second"],
                "memory": row["mb"] / limits["memory_gb_per_second"],
            }
            assert row["least_milliseconds"] == pytest.approx(max(least.values()))
            assert least[row["limit"]] == max(least.values())
            milliseconds = row["milliseconds"]["median"]
            assert row["share_of_limit"] == pytest.approx(max(least.values()) / milliseconds)
            assert row["gflop_per_second"] == pytest.approx(1e3 * row["gflop"] / milliseconds)
            assert row["gb_per_second"] == pytest.approx(row["mb"] / milliseconds)
            assert f"\n{layer} " in printed
        for layer in (*WEIGHTED, "norm1", "norm2", "pool1", "pool2", "pool5"):
            check_spread(rows[layer]["forward_milliseconds"])
            check_spread(rows[layer]["backward_milliseconds"])
        # What the layers do is known by name, all but all of it.
        assert rows["other"]["share_of_step"] < 0.05
        assert sum(row["share_of_step"] for row in rows.values()) == pytest.approx(1)
        check_spread(found["milliseconds"])
        # Medians of two turns are their means, which add up as the turns do.
        together = sum(row["milliseconds"]["median"] for row in rows.values())
        assert together == pytest.approx(found["profiled_milliseconds"]["median"])
        least = sum(row["least_milliseconds"] for row in rows.values())
        assert found["least_milliseconds"] == pytest.approx(least)
        assert found["share_of_limit"] == pytest.approx(least / found["milliseconds"]["median"])


def test_another_backend_is_refused():
    process = run("layers", KERAS_BACKEND="jax")
    assert process.returncode == 1
    assert len(process.stderr.splitlines()) == 1
    assert "KERAS_BACKEND is jax; layers measures TensorFlow's step: unset it." in process.stderr
