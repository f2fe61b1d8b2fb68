"""The names of classes for people, from the files next to the data or the model. Standard library only."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from keras_alexnet.data.class_file import check_classes, class_file, names_file, read_classes
from keras_alexnet.data.class_mappings import CLASS_MAPPINGS, CLASS_NAMES, read_class_mappings, read_class_names


@dataclass(frozen=True)
class Classes:
    """The classes of a model or of data, in label order.

    Attributes:
        ids: wordnet ids, or whatever the class folders are called.
        names: readable names, such as "tench, Tinca tinca"; empty strings where there are none.
        source: the file that lists the ids, for messages.
    """

    ids: Sequence[str]
    names: Sequence[str]
    source: str

    def __len__(self) -> int:
        return len(self.ids)

    def describe(self, label: int) -> str:
        """Id and name of a class, in one line."""
        return f"{self.ids[label]}  {self.names[label]}".rstrip()


def classes_of_data(class_mappings: str | os.PathLike) -> Classes:
    """The classes that a classmappings.txt lists, with the names of the classnames.txt next to it if that fits."""
    ids = read_class_mappings(class_mappings)
    return _named(ids, os.path.join(os.path.dirname(class_mappings), CLASS_NAMES), class_mappings)


def classes_of_model(model_path: str | os.PathLike) -> Classes | None:
    """The classes that the class file of a model lists; None if there is no such file."""
    ids = read_classes(model_path)
    return None if ids is None else _named(ids, names_file(model_path), class_file(model_path))


def find_classes(
    model_path: str | os.PathLike, *, data_dir: str | None = None, classmappings: str | None = None
) -> Classes | None:
    """The classes of a model, out of a folder of data, a class list, or else its class file.

    Raises:
        UserError: a file is missing or damaged, or the data's classes are not the model's.
    """
    if not (data_dir or classmappings):
        return classes_of_model(model_path)
    classes = classes_of_data(classmappings or os.path.join(data_dir, CLASS_MAPPINGS))
    check_classes(model_path, classes.ids, classes.source)
    return classes


def _named(ids: Sequence[str], names_path: str | os.PathLike, source: str | os.PathLike) -> Classes:
    """The names help to read, and nothing depends on them: those of other classes are passed over."""
    names = read_class_names(names_path, ids) or [""] * len(ids)
    return Classes(ids, names, str(source))
