import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_ilsvrc import CLASSES, SHARK, FakeIlsvrc

from keras_alexnet import cli, prepare
from keras_alexnet.data.image_map import raise_if_missing
from keras_alexnet.data.map_file import read_map
from keras_alexnet.errors import UserError

ROOT = Path(__file__).parent.parent
FRAMEWORKS = {"keras", "tensorflow", "jax", "torch"}


@pytest.fixture
def tree(tmp_path):
    return FakeIlsvrc(tmp_path / "imagenet")


def run(*arguments, code=None):
    """Runs the command in a process of its own."""
    command = ["-c", code] if code else ["-m", "keras_alexnet.prepare"]
    return subprocess.run([sys.executable, *command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


def call(*arguments):
    """Runs the command in this process."""
    prepare.main(*cli.parse(prepare.define_flags, [str(argument) for argument in arguments]))


def contents(folder):
    return {name: (folder / name).read_bytes() for name in os.listdir(folder) if name != ".lock"}


def test_command_writes_exactly_these_bytes(tree, tmp_path):
    tree.add_names()
    output_dir = tmp_path / "a new" / "data"
    done = run(f"--imagenet_dir={tree.root}", f"--output_dir={output_dir}")
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(output_dir) == {
        "train_map.txt": tree.train_map,
        "val_map.txt": tree.val_map,
        "classmappings.txt": b"n01440764\t0\nn01443537\t1\nn01484850\t2\n",
        "classnames.txt": b"n01440764\t0\ttench, Tinca tinca\nn01443537\t1\tgoldfish, Carassius auratus\n"
        b"n01484850\t2\tgreat white shark, white shark\n",
    }
    *report, seconds, next_command = done.stdout.splitlines()
    assert report == [
        f"Found Kaggle's tree in {tree.root}, labels in {tree.annotations}",
        f"Class names: {tree.root}/LOC_synset_mapping.txt",
        f"6 training images of 3 classes: {output_dir}/train_map.txt",
        f"3 validation images: {output_dir}/val_map.txt",
        f"3 classes: {output_dir}/classmappings.txt, {output_dir}/classnames.txt",
    ]
    assert seconds.endswith(" s")
    assert next_command == (f"Next: python -m keras_alexnet.fit --flagfile=fit_small --data_dir='{output_dir}'")


def test_command_tells_problems_and_keeps_older_files(tree, tmp_path):
    older = {"train_map.txt": b"older", "classmappings.txt": b"older", "classnames.txt": b"older"}
    (tmp_path / "data").mkdir()
    for name, text in older.items():
        (tmp_path / "data" / name).write_bytes(text)
    (tree.annotations / "ILSVRC2012_val_00000003.xml").unlink()
    done = run(f"--imagenet_dir={tree.root}", f"--output_dir={tmp_path}/data")
    assert done.returncode == 1
    assert done.stdout.startswith("Found ")
    first, second = done.stderr.splitlines()
    assert first == (
        "python -m keras_alexnet.prepare: the images cannot be used as they are, nothing was written (1 problem):"
    )
    assert second.startswith(f"  {tree.val}/ILSVRC2012_val_00000003.JPEG has no annotation: ")
    assert contents(tmp_path / "data") == older


@pytest.mark.parametrize("argument", ["--no_such_flag=1", "stray.txt"])
def test_command_refuses_what_it_does_not_know(argument):
    done = run(argument)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("python -m keras_alexnet.prepare: ")
    assert argument.split("=")[-1] in done.stderr or "no_such_flag" in done.stderr
    assert "Traceback" not in done.stderr
    assert "--help" in done.stderr


@pytest.mark.parametrize("help_", [True, False], ids=["help", "run"])
def test_no_framework_is_loaded(tree, tmp_path, help_):
    code = """
import atexit, runpy, sys
atexit.register(lambda: print("loaded:", *sys.modules))
runpy.run_module("keras_alexnet.prepare", run_name="__main__", alter_sys=True)
"""
    done = run("--help" if help_ else f"--imagenet_dir={tree.root}", f"--output_dir={tmp_path}/data", code=code)
    assert done.returncode == 0
    assert ("--val_annotations_dir=PATH\n" in done.stdout) == help_
    loaded = set(done.stdout.partition("loaded: ")[2].split())
    assert "keras_alexnet" in loaded
    assert not FRAMEWORKS & loaded


def test_folders_can_be_given_one_by_one(tree, tmp_path, capsys):
    folders = [f"--train_dir={tree.train}", f"--val_dir={tree.val}", f"--val_annotations_dir={tree.annotations}"]
    call(*folders, f"--output_dir={tmp_path}/data")
    assert (tmp_path / "data/train_map.txt").read_bytes() == tree.train_map
    assert (tmp_path / "data/val_map.txt").read_bytes() == tree.val_map


@pytest.mark.parametrize("flag", ["train_dir", "val_dir", "val_annotations_dir"])
def test_each_folder_flag_overrides_its_part_of_imagenet_dir(tree, tmp_path, flag):
    with pytest.raises(UserError, match=f"{tmp_path}/none"):
        call(f"--imagenet_dir={tree.root}", f"--{flag}={tmp_path}/none", f"--output_dir={tmp_path}/data")
    assert not (tmp_path / "data").exists()


def test_no_folder_given_is_told(tree):
    with pytest.raises(UserError, match=r"pass --imagenet_dir=FOLDER .*, or --train_dir, --val_dir, --val_l"):
        call()
    with pytest.raises(UserError, match=r"or --train_dir, --val_dir\."):
        call("--val_annotations_dir=")
    with pytest.raises(UserError, match=r"there are no validation images\. Pass --val_fraction=0\.1"):
        call(f"--train_dir={tree.train}")


def test_validation_images_in_class_folders(tree, tmp_path):
    val = tmp_path / "val" / SHARK / "1.png"
    val.parent.mkdir(parents=True)
    val.touch()
    call(
        f"--train_dir={tree.train}", f"--val_dir={tmp_path}/val", "--val_annotations_dir=", f"--output_dir={tmp_path}/a"
    )
    call(
        f"--imagenet_dir={tree.root}",
        f"--val_dir={tmp_path}/val",
        "--val_annotations_dir=",
        f"--output_dir={tmp_path}/b",
    )
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert (tmp_path / "a/train_map.txt").read_bytes() == tree.train_map
    assert (tmp_path / "a/val_map.txt").read_text() == f"{val}\t2\n"


def test_val_fraction_splits_the_training_images(tree, tmp_path, capsys):
    call(f"--train_dir={tree.train}", "--val_fraction=0.1", f"--output_dir={tmp_path}/data")
    assert "3 training images of 3 classes: " in capsys.readouterr().out
    files = contents(tmp_path / "data")
    train, val = files["train_map.txt"].splitlines(), files["val_map.txt"].splitlines()
    assert len(train) == len(val) == 3
    assert sorted(train + val) == sorted(tree.train_map.splitlines())
    call(f"--train_dir={tree.train}", "--val_fraction=0.1", f"--output_dir={tmp_path}/again")
    assert contents(tmp_path / "again") == files
    splits = set()
    for seed in range(5):
        call(f"--train_dir={tree.train}", "--val_fraction=0.1", f"--split_seed={seed}", f"--output_dir={tmp_path}/data")
        splits.add(contents(tmp_path / "data")["val_map.txt"])
    assert files["val_map.txt"] in splits
    assert len(splits) > 1


@pytest.mark.parametrize("fraction", ["0", "1", "-0.1", "nan", "10"])
def test_bounds_of_val_fraction(tree, fraction):
    with pytest.raises(UserError, match=rf"val_fraction is {fraction}.*; expected a number above 0 and below 1"):
        call(f"--train_dir={tree.train}", f"--val_fraction={fraction}")


@pytest.mark.parametrize("flag", ["imagenet_dir", "val_dir", "val_annotations_dir"])
def test_val_fraction_goes_with_no_other_validation_images(tree, flag):
    with pytest.raises(UserError, match=f"--val_fraction takes .* does not go with --{flag}: leave out"):
        call(f"--train_dir={tree.train}", "--val_fraction=0.1", f"--{flag}={tree.root}")
    with pytest.raises(UserError, match="pass --train_dir=FOLDER, which --val_fraction splits"):
        call("--val_fraction=0.1")


def test_data_with_relative_paths_can_be_moved(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call("--imagenet_dir=imagenet", "--relative_paths", "--output_dir=imagenet/maps")
    before = {name: read_map(tree.root / "maps" / name) for name in ("train_map.txt", "val_map.txt")}
    assert b"".join(os.fsencode(path) for path in before["train_map.txt"].paths).count(os.fsencode(tree.train)) == 6
    os.rename(tree.root, tmp_path / "moved")
    monkeypatch.chdir("/")
    for name, older in before.items():
        images = read_map(tmp_path / "moved/maps" / name)
        assert list(images.paths) == [path.replace(str(tree.root), f"{tmp_path}/moved") for path in older.paths]
        assert all(os.path.exists(path) for path in images.paths)
        assert images.labels == older.labels
        assert images.fingerprint == older.fingerprint
        with pytest.raises(UserError, match="are missing"):
            raise_if_missing(older)
        raise_if_missing(images)


def test_flagfile(tree, tmp_path):
    flagfile = tmp_path / "prepare.flags"
    flagfile.write_text(f"# Here.\n--imagenet_dir={tree.root}\n--output_dir={tmp_path}/data\n")
    call(f"--flagfile={flagfile}")
    assert (tmp_path / "data/val_map.txt").read_bytes() == tree.val_map


def test_output_dir_defaults_to_data(tree, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    call("--imagenet_dir=imagenet")
    assert contents(tmp_path / "data")["train_map.txt"] == tree.train_map


@pytest.mark.parametrize("levels", [1, 4])
def test_class_names_are_looked_for_above_the_training_folder(tree, tmp_path, levels):
    tree.add_names([tree.train, *tree.train.parents][levels])
    folders = [f"--train_dir={tree.train}", f"--val_dir={tree.val}", f"--val_annotations_dir={tree.annotations}"]
    call(*folders, f"--output_dir={tmp_path}/out")
    assert (tmp_path / "out/classnames.txt").exists()


def test_class_names_of_imagenet_dir_count_first(tree, tmp_path):
    other = FakeIlsvrc(tmp_path / "other")
    (other.root / "LOC_synset_mapping.txt").write_text("".join(f"{class_id} other\n" for class_id in CLASSES))
    tree.add_names()
    call(f"--imagenet_dir={tree.root}", f"--train_dir={other.train}", f"--output_dir={tmp_path}/out")
    assert b"tench" in (tmp_path / "out/classnames.txt").read_bytes()


def test_classes_without_validation_images_are_noted(tree, tmp_path, capsys):
    call(f"--imagenet_dir={tree.root}", f"--output_dir={tmp_path}/data")
    assert "Note" not in capsys.readouterr().out
    (tree.val / "ILSVRC2012_val_00000001.JPEG").unlink()
    call(f"--imagenet_dir={tree.root}", f"--output_dir={tmp_path}/data")
    assert f"Note: no validation images for 1 of the 3 classes: {SHARK}\n" in capsys.readouterr().out


def test_output_dir_that_is_a_broken_link_is_told(tree, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=f"link is a link to {tmp_path}/gone, which does not exist"):
        call(f"--imagenet_dir={tree.root}", f"--output_dir={tmp_path}/link")
    assert not (tmp_path / "gone").exists()


def test_output_dir_that_cannot_be_made_is_told(tree, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"cannot write to {tmp_path}/file/data: .*another folder"):
        call(f"--imagenet_dir={tree.root}", f"--output_dir={tmp_path}/file/data")
