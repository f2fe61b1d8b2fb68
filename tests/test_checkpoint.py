import contextlib
import dataclasses
import json

import keras
import numpy as np
import pytest

from keras_alexnet.errors import UserError
from keras_alexnet.training import checkpoint as checkpoints
from keras_alexnet.training.checkpoint import (
    Progress,
    build_variables,
    load_newest_checkpoint,
    restore,
    variable_arrays,
)
from keras_alexnet.training.metrics import compile_model
from keras_alexnet.training.optimizer import SGDWithL2

X, Y = np.random.default_rng(0).normal(size=(8, 5)).astype("float32"), np.arange(8) % 3


def build(seed: int, units: int = 4) -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((5,))
    x = keras.layers.Dropout(0.5)(keras.layers.Dense(units)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    compile_model(model, SGDWithL2(0.1))
    build_variables(model)
    return model


def progress(steps: int) -> Progress:
    return Progress(steps, [{"epoch": 1, "loss": 0.1 + 0.2}], {"seed": 1}, cores=2, epoch_seconds=0.5)


def save_checkpoint(folder, model, where):
    return checkpoints.save_checkpoint(folder, variable_arrays(model), where)


@pytest.fixture(scope="module")
def trained():
    model = build(1)
    for _ in range(3):
        model.train_on_batch(X, Y)
    return model


def test_round_trip_goes_on_bit_for_bit(trained, tmp_path):
    """Weights, momenta, step count, the state of dropout's seeds, sums of metrics: the next steps are the same."""
    save_checkpoint(tmp_path, trained, progress(6))
    other = build(2)
    checkpoint = load_newest_checkpoint(tmp_path)
    assert checkpoint.progress == progress(6)
    restore(other, checkpoint)
    assert int(other.optimizer.iterations) == 3
    assert other.get_metrics_result() == trained.get_metrics_result()
    for _ in range(2):
        assert trained.train_on_batch(X, Y)[0] == other.train_on_batch(X, Y)[0]
    for a, b in zip(trained.variables, other.variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_newest_two_are_kept_and_the_newest_is_read(trained, tmp_path):
    for steps in (2, 4, 6, 10):
        save_checkpoint(tmp_path, trained, progress(steps))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000006.npz", "step-000000010.npz"]
    assert load_newest_checkpoint(tmp_path).progress.steps == 10
    # Newer ones were damaged when a run resumed from an older one.
    save_checkpoint(tmp_path, trained, progress(8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000006.npz", "step-000000008.npz"]
    assert load_newest_checkpoint(tmp_path / "empty") is None


def test_a_flipped_bit_in_the_headers_is_damage(trained, tmp_path):
    path = save_checkpoint(tmp_path, trained, progress(2))
    data = path.read_bytes()
    for position in range(26):  # the local header of the first array
        for bit in range(8):
            path.write_bytes(data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :])
            # Told as damage, unless it is a bit that nothing reads.
            with contextlib.suppress(UserError):
                assert load_newest_checkpoint(tmp_path, lambda _: None).progress == progress(2)


def test_damaged_newest_falls_back_to_the_one_before(trained, tmp_path):
    save_checkpoint(tmp_path, trained, progress(2))
    newest = save_checkpoint(tmp_path, trained, progress(4))
    data = newest.read_bytes()
    middle = len(data) // 2
    flipped = bytearray(data)
    flipped[middle] ^= 1
    for damaged in (data[:middle], flipped, b"", b"hello"):
        newest.write_bytes(damaged)
        messages = []
        assert load_newest_checkpoint(tmp_path, messages.append).progress.steps == 2
        assert len(messages) == 1
        assert str(newest) in messages[0]


def test_damage_of_all_is_an_error_and_what_cannot_be_read_is_no_damage(trained, tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path, trained, progress(2))

    def broken(*arguments, **settings):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(np, "load", broken)
        with pytest.raises(UserError, match=r"cannot read .*step-000000002\.npz: Permission denied\. Fix this"):
            load_newest_checkpoint(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read"):
        load_newest_checkpoint(tmp_path, lambda _: None)


def test_other_formats_are_refused(trained, tmp_path):
    path = save_checkpoint(tmp_path, trained, progress(2))
    for number, expected_text in ((99, "newer version of keras_alexnet; update it"), (1, "older version")):
        np.savez(path, **{"state.json": np.frombuffer(json.dumps({"format": number}).encode(), np.uint8)})
        with pytest.raises(UserError, match=expected_text):
            load_newest_checkpoint(tmp_path)


def test_another_network_is_refused(trained, tmp_path):
    save_checkpoint(tmp_path, trained, dataclasses.replace(progress(2), architecture="k 1"))
    checkpoint = load_newest_checkpoint(tmp_path)
    other = build(1, units=6)
    before = [variable.numpy() for variable in other.variables]
    with pytest.raises(UserError, match="another network: model/00 has shape"):
        restore(other, checkpoint, "k 1")
    assert all(np.array_equal(a, b) for a, b in zip(before, other.variables, strict=True))
    with pytest.raises(UserError, match="is of another network:\n  k 1 then,\n  k 2 now"):
        restore(build(1), checkpoint, "k 2")
