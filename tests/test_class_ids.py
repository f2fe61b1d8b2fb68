import pytest

from keras_alexnet.data.class_file import check_classes, write_classes
from keras_alexnet.data.class_ids import alike_key, escaped, similar
from keras_alexnet.data.scanning import data_set
from keras_alexnet.errors import UserError

COMPOSED, DECOMPOSED = "cr\u00e8me", "cre\u0300me"


@pytest.mark.parametrize(
    ("class_id", "shown"),
    [
        (COMPOSED, COMPOSED),
        (DECOMPOSED, r"cre\u0300me"),
        ("cat\u200b", r"cat\u200b"),
        ("big\u00a0cat", r"big\xa0cat"),
        ("big cat ", r"big cat\x20"),
        ("\u0915\u093f\u0924\u093e\u092c\u094d", "\u0915\u093f\u0924\u093e\u092c\u094d"),  # Hindi needs its signs.
    ],
)
def test_what_cannot_be_seen_is_escaped(class_id, shown):
    assert escaped(class_id) == shown


def test_ids_that_look_the_same_have_the_same_key():
    assert alike_key(COMPOSED) == alike_key(DECOMPOSED) == alike_key(f"\ufeff{COMPOSED.upper()} ")
    assert alike_key("big\u00a0cat") == alike_key("big cat\u200b")
    assert alike_key("stra\u00dfe") != alike_key("strasse")


def test_what_an_unknown_class_may_stand_for():
    assert similar(DECOMPOSED, ["tarte", COMPOSED]) == (
        rf" ('cre\u0300me' and '{COMPOSED}' differ only in Unicode normal form)"
    )
    assert similar("cat\u200b", ["cat"]) == r" ('cat\u200b' and 'cat' differ only in spaces or invisible characters)"
    assert similar("Cat", ["cat"]) == " ('Cat' and 'cat' differ only in case)"
    assert similar("newt", ["cat"]) == ""


def test_class_folders_that_look_the_same_are_reported_with_escapes(tmp_path):
    for name in (COMPOSED, DECOMPOSED, "tarte"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "1.jpg").touch()
    (tmp_path / "val" / "tarte ").mkdir(parents=True)
    (tmp_path / "val" / "tarte " / "1.jpg").touch()
    with pytest.raises(UserError) as raised:
        data_set.scan_image_folders(tmp_path / "train", tmp_path / "val", "")
    assert rf"train/cre\u0300me and {tmp_path}/train/{COMPOSED} differ only in Unicode normal form" in str(raised.value)
    assert r"is not one of the 3 classes ('tarte\x20' and 'tarte' differ only in spaces" in str(raised.value)


def test_classes_of_a_model_that_look_the_same_are_reported_with_escapes(tmp_path):
    write_classes(tmp_path / "m.keras", ["cat\u200b", "dog"])
    with pytest.raises(UserError, match=r"only look the same: label 0 is cat\\u200b in .*, but cat in data"):
        check_classes(tmp_path / "m.keras", ["cat", "dog"], "data")
