"""`keras_alexnet.prepare` on folders of images."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from archives import prepare as call
from fake_ilsvrc import CLASSES, SHARK, FakeIlsvrc

from keras_alexnet.errors import UserError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def tree(tmp_path):
    return FakeIlsvrc(tmp_path / "imagenet")


def contents(folder):
    return {name: (folder / name).read_bytes() for name in os.listdir(folder) if name != ".lock"}


def test_command_writes_exactly_these_bytes_and_loads_no_framework(tree, tmp_path):
    tree.add_names()
    output_dir = tmp_path / "a new" / "data"
    program = """
import atexit, runpy, sys
atexit.register(lambda: print("loaded:", {"keras", "tensorflow", "jax", "torch"} & set(sys.modules)))
runpy.run_module("keras_alexnet.prepare", run_name="__main__", alter_sys=True)
"""
    command = [sys.executable, "-c", program, f"--imagenet_dir={tree.root}", f"--output_dir={output_dir}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(output_dir) == {
        "train_map.txt": tree.train_map,
        "val_map.txt": tree.val_map,
        "classmappings.txt": b"n01440764\t0\nn01443537\t1\nn01484850\t2\n",
        "classnames.txt": b"n01440764\t0\ttench, Tinca tinca\nn01443537\t1\tgoldfish, Carassius auratus\n"
        b"n01484850\t2\tgreat white shark, white shark\n",
    }
    *report, seconds, next_command, loaded = done.stdout.splitlines()
    assert report == [
        f"Found Kaggle's tree in {tree.root}, labels in {tree.annotations}",
        f"Class names: {tree.root}/LOC_synset_mapping.txt",
        f"6 training images of 3 classes: {output_dir}/train_map.txt",
        f"3 validation images: {output_dir}/val_map.txt",
        f"3 classes: {output_dir}/classmappings.txt, {output_dir}/classnames.txt",
    ]
    assert seconds.endswith(" s")
    assert next_command == (
        f"Next: python -m keras_alexnet.fit --flagfile=fit_small --data_dir='{output_dir}' --batch_size=6"
    )
    assert loaded == "loaded: set()"


def test_a_problem_keeps_older_files(tree, tmp_path):
    older = {"train_map.txt": b"older", "classmappings.txt": b"older", "classnames.txt": b"older"}
    (tmp_path / "data").mkdir()
    for name, text in older.items():
        (tmp_path / "data" / name).write_bytes(text)
    (tree.annotations / "ILSVRC2012_val_00000003.xml").unlink()
    with pytest.raises(UserError, match=rf"\(1 problem\):\n  {tree.val}/ILSVRC2012_val_00000003.JPEG has no anno"):
        call(f"--imagenet_dir={tree.root}", f"--output_dir={tmp_path}/data")
    assert contents(tmp_path / "data") == older


def test_class_names_are_looked_for_above_the_training_images(tree, tmp_path):
    folders = [f"--train_dir={tree.train}", f"--val_dir={tree.val}", f"--val_annotations_dir={tree.annotations}"]
    tree.add_names(tree.root.parent)
    call(*folders, f"--output_dir={tmp_path}/data")
    assert (tmp_path / "data/classnames.txt").exists()
    # Those of --imagenet_dir count first.
    tree.add_names()
    other = FakeIlsvrc(tmp_path / "other")
    (other.root / "LOC_synset_mapping.txt").write_text("".join(f"{class_id} other\n" for class_id in CLASSES))
    arguments = (f"--imagenet_dir={tree.root}", f"--train_dir={other.train}", f"--output_dir={tmp_path}/data")
    call(*arguments)
    assert b"tench" in (tmp_path / "data/classnames.txt").read_bytes()
    # Where there are none, those of a run before are removed.
    (tree.root / "LOC_synset_mapping.txt").write_text("n1 of no class\n")
    call(*arguments)
    assert not (tmp_path / "data/classnames.txt").exists()
    (tmp_path / "data/classnames.txt").mkdir()
    with pytest.raises(UserError, match=r"classnames\.txt may belong to other classes: remove it"):
        call(*arguments)


def test_val_fraction_splits_the_training_images(tree, tmp_path):
    splits = set()
    for seed in (0, 0, 1, 2, 3):
        call(f"--train_dir={tree.train}", "--val_fraction=0.1", f"--split_seed={seed}", f"--output_dir={tmp_path}/data")
        train, val = ((tmp_path / f"data/{part}_map.txt").read_bytes().splitlines() for part in ("train", "val"))
        assert len(train) == len(val) == 3
        assert sorted(train + val) == sorted(tree.train_map.splitlines())
        splits.add(tuple(val))
    assert 1 < len(splits) < 5


@pytest.mark.parametrize("flag", ["train_dir", "val_dir", "val_annotations_dir"])
def test_each_folder_flag_overrides_its_part_of_imagenet_dir(tree, tmp_path, flag):
    with pytest.raises(UserError, match=f"{tmp_path}/none"):
        call(f"--imagenet_dir={tree.root}", f"--{flag}={tmp_path}/none", f"--output_dir={tmp_path}/data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "expected_text"),
    [
        ((), r"pass --imagenet_dir=FOLDER .*, or --train_dir, --val_dir, --val_l"),
        (("--train_dir={}",), r"there are no validation images\. Pass --val_fraction=0\.1"),
        (("--train_dir={}", "--val_fraction=1"), "val_fraction is 1.0; expected a number above 0 and below 1"),
        (("--train_dir={}", "--val_fraction=nan"), "val_fraction is nan; expected"),
        (("--train_dir={}", "--val_fraction=0.1", "--val_dir={}"), "does not go with --val_dir: leave out"),
        (("--val_fraction=0.1",), "pass --train_dir=FOLDER, which --val_fraction splits"),
    ],
)
def test_flags_that_name_no_images_are_refused(tree, arguments, expected_text):
    with pytest.raises(UserError, match=expected_text):
        call(*(argument.format(tree.train) for argument in arguments))


def test_classes_without_validation_images_are_noted(tree, tmp_path, capsys):
    (tree.val / "ILSVRC2012_val_00000001.JPEG").unlink()
    call(f"--imagenet_dir={tree.root}", f"--output_dir={tmp_path}/data")
    assert f"Note: no validation images for 1 of the 3 classes: {SHARK}\n" in capsys.readouterr().out


def test_output_is_refused_where_it_would_be_a_class(tree):
    train = f"--train_dir={tree.train}"
    with pytest.raises(UserError, match="inside --train_dir, where the next run would treat it as a class"):
        call(train, "--val_fraction=0.5", f"--output_dir={tree.train}/maps")
    with pytest.raises(UserError, match="inside --val_dir"):
        call(train, f"--val_dir={tree.val}", "--val_annotations_dir=", f"--output_dir={tree.val}/maps")
    call(train, "--val_fraction=0.5", f"--output_dir={tree.train}/.maps")
    assert (tree.train / ".maps" / "train_map.txt").exists()
