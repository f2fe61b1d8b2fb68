"""The XML annotations of ILSVRC2012 (Pascal VOC's form). Standard library only."""

import xml.etree.ElementTree as ET
from collections.abc import Callable

from keras_alexnet.data.archives.small_files import read_file
from keras_alexnet.data.class_ids import escaped, similar
from keras_alexnet.system.file_names import from_utf8

# ILSVRC's annotations have at most some 10 kB; a limit keeps a wrong file from taking forever.
_MAX_BYTES = 1 << 20


def annotated_label(
    annotation: str,
    image: str,
    label_of: dict[str, int],
    problems: list[str],
    read: Callable[[str], bytes] = read_file,
) -> int | None:
    """Reads the class of an image from its annotation, an XML file whose `object/name` elements all name the same.

    Returns:
        The label; None, after what is wrong was appended to `problems`, if there is none.
    """
    try:
        text = read(annotation)
        if len(text) > _MAX_BYTES:
            raise ValueError("it is larger than 1 MiB")
        # Entities can expand to gigabytes, and no annotation needs them.
        if b"<!ENTITY" in text:
            raise ValueError("it defines entities")
        objects = ET.fromstring(text).findall("object")
    except FileNotFoundError:
        problems.append(f"{image} has no annotation: expected {annotation}; add it, or remove the image")
        return None
    except OSError as error:
        problems.append(f"cannot read {annotation}: {error.strerror}; expected XML; fix it, or remove it and {image}")
        return None
    except (ET.ParseError, ValueError, LookupError) as error:
        problems.append(f"{annotation} is not XML as expected: {error}; correct it, or remove it and {image}")
        return None
    named = {from_utf8((element.findtext("name") or "").strip()) for element in objects}
    if len(named) == 1 and (label := label_of.get(*named)) is not None:
        return label
    if not named or "" in named:
        wrong = "names no class" if not named else "has an object without a name"
    elif len(named) > 1:
        wrong = f"names several classes ({', '.join(sorted(named))})"
    else:
        unknown = min(named)
        wrong = f"names class {escaped(unknown)}, which is not one of the classes{similar(unknown, label_of)}"
    problems.append(
        f"{annotation} {wrong}: expected objects of one training class in object/name; correct it, or "
        f"remove it and {image}"
    )
    return None
