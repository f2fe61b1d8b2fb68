import pytest

from keras_alexnet.data.scanning.annotations import annotated_label

LABEL_OF = {"tench": 0, "goldfish": 1}


@pytest.fixture
def annotation(tmp_path):
    return tmp_path / "val_1.xml"


def problem_of(annotation):
    """The one problem that reading the annotation tells."""
    problems = []
    assert annotated_label(str(annotation), "val_1.JPEG", LABEL_OF, problems) is None
    (problem,) = problems
    return problem


def objects(*class_ids):
    return "".join(f"<object><name>{class_id}</name><pose/></object>" for class_id in class_ids)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (f"<annotation><source><name>other</name></source>{objects('goldfish')}</annotation>", 1),
        (f"<annotation>{objects('tench', 'tench', 'tench')}</annotation>", 0),
        (f"<annotation>{objects(' goldfish ')}</annotation>", 1),
        (f'<?xml version="1.0" encoding="UTF-16"?><annotation>{objects("goldfish")}</annotation>', 1),
    ],
    ids=["one object", "three objects", "spaces", "UTF-16"],
)
def test_label_is_the_class_of_all_objects(annotation, text, label):
    annotation.write_text(text, encoding="utf-16" if "UTF-16" in text else "utf-8")
    problems = []
    assert annotated_label(str(annotation), "val_1.JPEG", LABEL_OF, problems) == label
    assert problems == []


@pytest.mark.parametrize(
    ("text", "expected_text"),
    [
        ("", "names no class: expected objects"),
        ("<object><pose/></object>", "has an object without a name: "),
        (objects("tench", "  "), "has an object without a name: "),
        (objects("tench", "goldfish", "tench"), "names several classes (goldfish, tench): "),
        (objects("newt"), "names class newt, which is not one of the classes: "),
    ],
)
def test_annotations_that_name_no_one_class_are_told(annotation, text, expected_text):
    annotation.write_text(f"<annotation>{text}</annotation>")
    problem = problem_of(annotation)
    assert problem.startswith(f"{annotation} {expected_text}")
    assert problem.endswith("correct it, or remove it and val_1.JPEG")


# Ten times ten times ten … a gigabyte, were it expanded.
BOMB = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize(
    ("content", "expected_text"),
    [
        (b"", "no element found"),
        (b"<annotation><object>", "no element found"),
        (b"\xff\xd8\xff\xe0 a JPEG", "not well-formed"),
        (b'<?xml version="1.0" encoding="martian"?><a/>', "unknown encoding"),
        (b'<?xml version="1.0" encoding="utf-7"?><a/>', "multi-byte encodings are not supported"),
        (f'<!DOCTYPE a [<!ENTITY e0 "x">{BOMB}]><a>&e9;</a>'.encode(), "it defines entities"),
        (b"<a>" + b" " * (1 << 20) + b"</a>", "it is larger than 1 MiB"),
    ],
    ids=["empty", "cut off", "not XML", "unknown encoding", "unsupported encoding", "entities", "huge"],
)
def test_annotations_that_are_not_xml_are_told(annotation, content, expected_text):
    annotation.write_bytes(content)
    problem = problem_of(annotation)
    assert problem.startswith(f"{annotation} is not XML as expected: {expected_text}")
    assert problem.endswith("correct it, or remove it and val_1.JPEG")


def test_missing_annotation_is_told(annotation):
    assert problem_of(annotation) == (
        f"val_1.JPEG has no annotation: expected {annotation}; add it, or remove the image"
    )


def test_unreadable_annotation_is_told(annotation):
    annotation.mkdir()
    assert problem_of(annotation) == (
        f"cannot read {annotation}: Is a directory; expected XML; fix it, or remove it and val_1.JPEG"
    )
