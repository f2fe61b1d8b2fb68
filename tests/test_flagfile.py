import pytest

from keras_alexnet.errors import UserError
from keras_alexnet.system.flagfile import expand_flagfiles, flag_line


def expand(path, text: bytes) -> list[str]:
    path.write_bytes(text)
    return expand_flagfiles(["first", f"--flagfile={path}", "last"])[1:-1]


def test_lines_of_flagfiles(tmp_path):
    lines = {
        "--data_dir=/a b/c": "--data_dir=/a b/c",
        '--data_dir="/a b/c"': "--data_dir=/a b/c",
        "--data_dir='/a #1/c'   # where the maps are": "--data_dir=/a #1/c",
        "--data_dir=/a#1/c # note": "--data_dir=/a#1/c",
        "--data_dir=/a/c\t# note": "--data_dir=/a/c",
        "--data_dir=# note": "--data_dir=# note",
        "--data_dir= # note": "--data_dir=",
        "--data_dir= /a b": "--data_dir=/a b",
        "  --noreport  # note": "--noreport",
        "-epochs=3": "-epochs=3",
    }
    text = ("# A recipe\n\n// and more\n" + "\n".join(lines)).encode()
    assert expand(tmp_path / "a.flags", text) == list(lines.values())
    assert expand(tmp_path / "a.flags", b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n")) == list(lines.values())


def test_lines_of_another_form_are_errors(tmp_path):
    for line in ('--data_dir="/a', '--data_dir= "/a b"', '--data_dir="/a" b', "data_dir=/a", '"--data_dir=/a"'):
        with pytest.raises(UserError, match=r"a\.flags has .* in line 2; expected --name=value"):
            expand(tmp_path / "a.flags", f"--epochs=3\n{line}\n".encode())
    with pytest.raises(UserError, match=r"a\.flags is not UTF-8 text, but probably UTF-16.* Save it as UTF-8"):
        expand(tmp_path / "a.flags", "--epochs=3\n".encode("utf-16"))


def test_flagfiles_in_flagfiles(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/base.flags").write_text("--epochs=1\n--seed=2\n")
    own = expand(tmp_path / "recipes/own.flags", b"--flagfile=base.flags\n--epochs=5\n")
    assert own == ["--epochs=1", "--seed=2", "--epochs=5"]
    with pytest.raises(UserError, match="includes itself"):
        expand(tmp_path / "a.flags", b"--flagfile=a.flags\n")
    monkeypatch.setenv("HOME", str(tmp_path / "recipes"))
    assert expand_flagfiles(["--flagfile", "~/base.flags"]) == ["--epochs=1", "--seed=2"]
    assert expand_flagfiles(["--", "--flagfile=x"]) == ["--", "--flagfile=x"]
    with pytest.raises(UserError, match="names no file"):
        expand(tmp_path / "a.flags", b"--flagfile\n--epochs=3\n")


def test_recipes_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = expand_flagfiles(["--flagfile=fit_imagenet"])
    assert "--epochs=112" in recipe
    assert expand(tmp_path / "own.flags", b"--flagfile=fit_imagenet\n--epochs=5\n") == [*recipe, "--epochs=5"]
    for name in ("fit_imagnet", "elsewhere/fit_imagenet"):
        with pytest.raises(UserError, match=rf"no flagfile {name}\..* recipe: evaluate_bvlc, .*, fit_imagenet, "):
            expand_flagfiles([f"--flagfile={name}"])
    (tmp_path / "fit_imagenet").write_text("--epochs=3\n")
    assert expand_flagfiles(["--flagfile=fit_imagenet"]) == ["--epochs=3"]


def test_flag_lines_are_read_as_they_were_written(tmp_path):
    for value in ("/a b", "/a #1", '"quoted"', "it's #1", 'say "a" #1', """a'b"c""", " edge ", "", 3):
        assert expand(tmp_path / "a.flags", flag_line("x", value).encode()) == [f"--x={value}"]
    for value in ("""it's "a" #1""", "two\nlines"):
        with pytest.raises(UserError, match=r"x is .* cannot be written to a flagfile"):
            flag_line("x", value)
