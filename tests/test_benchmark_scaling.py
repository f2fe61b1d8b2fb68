import numpy as np
import pytest
from benchmark_process import check_spread, figures_of, run
from benchmarks import scaling
from training_process import installed

from keras_alexnet.data.synthetic import synthetic_training_batches
from keras_alexnet.training.build import build_model, build_network
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.devices.choice import choose_devices

STEPS, BATCH_SIZE = 2, 8
SMALL = ("--copies", "2", "--network=tiny", f"--steps={STEPS}", f"--batch_size={BATCH_SIZE}", "--repeats=1")


def losses_of_one_device(num_shares: int) -> list[float]:
    """The training losses of two epochs of the batch that is made of the shares of so many processes."""
    with choose_devices("none") as devices:
        config = TrainConfig(preset="tiny", dropout=0.0, batch_size=BATCH_SIZE, learning_rate=1e-4)
        model = build_network(build_model(config, 1000), config, STEPS, devices)
    shares = [
        next(iter(synthetic_training_batches(BATCH_SIZE // num_shares, 1000, seed=worker)))
        for worker in range(num_shares)
    ]
    images, labels = (np.concatenate(parts) for parts in zip(*shares, strict=True))
    losses = []
    for _ in range(2):
        of_steps = [model.train_on_batch(images, labels, return_dict=True)["loss"] for _ in range(STEPS)]
        losses.append(np.mean(of_steps))
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("backend", installed("tensorflow", "jax"))
def test_every_layout_trains_the_same(backend, tmp_path):
    figures, printed = figures_of(tmp_path, "scaling", *SMALL, "--backends", backend)
    assert list(figures["backends"]) == [backend]
    # Bytes and not GB, of any machine.
    assert 1e8 < figures["memory_bytes_per_second"] < 1e14
    of_backend = figures["backends"][backend]
    layouts = of_backend["layouts"]
    assert list(layouts) == ["1 device", "2 devices", "2 processes"]
    assert of_backend["largest_difference"] <= scaling.LARGEST_DIFFERENCE
    for name, layout in layouts.items():
        check_spread(layout["images_per_second"])
        check_spread(layout["peak_mb"])
        assert layout["images"] == STEPS * BATCH_SIZE
        assert f"\n  {name} " in printed
        assert ("beyond_one_seconds" in layout) == (name != "1 device")
    one, two, processes = (np.array(layout["losses"]) for layout in layouts.values())
    # After each epoch that of the training and that of the validation.
    assert one.shape == (4,)
    np.testing.assert_allclose(two, one, rtol=1e-5)
    # The images of two processes are others, and as many.
    assert abs(processes[0] - one[0]) > 1e-4
    if backend == "tensorflow":
        # Other backends draw other initial weights.
        np.testing.assert_allclose(one[::2], losses_of_one_device(1), rtol=1e-5)
        np.testing.assert_allclose(processes[::2], losses_of_one_device(2), rtol=1e-5)
    seconds = [BATCH_SIZE / layouts[name]["images_per_second"]["median"] for name in ("1 device", "2 devices")]
    beyond = layouts["2 devices"]["beyond_one_seconds"]["median"]
    assert beyond == pytest.approx(seconds[1] - seconds[0])
    of_variables = layouts["2 devices"]["beyond_one_ns_per_byte"] * 4 * of_backend["parameters"]
    assert of_variables == pytest.approx(1e9 * beyond)


@pytest.mark.parametrize(
    ("devices", "copies"),
    [
        ("CPU", 1),
        ("CPU, JAX", 1),
        ("2 × CPU, mirrored", 2),
        ("4 × CPU, JAX", 4),
        ("4 workers with 1 CPU each", 4),
        ("2 workers with 1 CPU each, JAX", 2),
        ("2 workers with 2 CPU each", 1),
    ],
)
def test_copies_are_told_by_the_devices_of_a_run(devices, copies):
    assert scaling.copies_in(devices) == copies


def test_the_least_counts_passes_over_the_variables_and_what_is_sent():
    # 8 passes of each further copy; the gradients of each are read and the sum is written, once or in each process.
    assert scaling.least_seconds(scaling.Layout(devices=2), 100, 100.0, 1.0) == (8 + 2 + 1, 0)
    assert scaling.least_seconds(scaling.Layout(devices=4), 100, 100.0, 1.0) == (24 + 4 + 1, 0)
    assert scaling.least_seconds(scaling.Layout(processes=2), 100, 100.0, 10.0) == (8 + 2 + 2, 20)
    assert scaling.least_seconds(scaling.Layout(processes=4), 100, 100.0, 10.0) == (24 + 4 + 4, 60)


def test_the_rate_of_tcp_is_measured(monkeypatch):
    monkeypatch.setattr(scaling, "_RATE_BYTES", 1 << 22)
    assert scaling.loopback_rate(tries=1) > 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--batch_size=6"], 1, "--batch_size is 6, expected one that divides by each of --copies: [2, 4]."),
        (["--backends", "torch"], 2, "--backends: invalid choice: 'torch'"),
        (["--copies", "0"], 2, "--copies: expected an integer of at least 1, got '0'"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments, status, message):
    process = run("scaling", *arguments)
    assert process.returncode == status
    assert message in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr
