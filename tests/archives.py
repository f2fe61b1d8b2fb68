"""Archives of files, as people have them, for tests."""

import io
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from one_process import one_process

from keras_alexnet import cli
from keras_alexnet import prepare as command


def prepare(*arguments: str) -> None:
    """Calls the command in this process."""
    with one_process():
        command.main(*cli.parse(command.define_flags, list(arguments)))


def write_tar(path: Path, files: Mapping[str, bytes], tar_format: int = tarfile.PAX_FORMAT) -> dict[str, str]:
    """Writes a tar; returns the name of each file in a map, behind `@/`."""
    with tarfile.open(path, "w", format=tar_format) as archive:
        for name, data in files.items():
            add(archive, name, data)
    return {name: name for name in files}


def write_tar_of_tars(path: Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """Writes a tar with a tar per folder, as ILSVRC2012_img_train.tar is; files in no folder stay as they are."""
    folders: dict[str, dict[str, bytes]] = defaultdict(dict)
    for name, data in files.items():
        folder, _, base = name.rpartition("/")
        folders[folder][base] = data
    names = {}
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for folder, held in folders.items():
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w", format=tarfile.USTAR_FORMAT) as part:
                for base, data in held.items():
                    add(part if folder else archive, base, data)
                    names[f"{folder}/{base}" if folder else base] = f"{folder}.tar/{base}" if folder else base
            if folder:
                add(archive, f"{folder}.tar", inner.getvalue())
    return names


def write_zip(path: Path, files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> dict[str, str]:
    """Writes a zip."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return {name: name for name in files}


def write_deflated_zip(path: Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """Writes a zip of deflated entries."""
    return write_zip(path, files, zipfile.ZIP_DEFLATED)


def write_zip64(path: Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """Writes a zip whose offsets and directory are in ZIP64 fields."""
    limit = zipfile.ZIP64_LIMIT
    zipfile.ZIP64_LIMIT = 1
    try:
        return write_zip(path, files)
    finally:
        zipfile.ZIP64_LIMIT = limit


def write_zip_behind_a_program(path: Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """Writes a zip that unpacks itself."""
    names = write_zip(path, files)
    path.write_bytes(b"#!/bin/sh\n" * 100 + path.read_bytes())
    return names


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **attributes) -> None:
    """Adds a file to a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for attribute, value in attributes.items():
        setattr(member, attribute, value)
    archive.addfile(member, io.BytesIO(data))


def write_webdataset(path: Path, samples: Iterable[Mapping[str, bytes]]) -> None:
    """Writes a tar of samples: the bytes of each of their files by its kind, and their key as `__key__`."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for sample in samples:
            for kind, data in sample.items():
                if kind != "__key__":
                    add(archive, f"{sample['__key__']}.{kind}", data)


def write_tfrecord(path: Path, records: Iterable[Mapping[str, bytes | int | Sequence[float]]]) -> None:
    """Writes records of features."""
    import tensorflow as tf

    def feature(value) -> tf.train.Feature:
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(float_list=tf.train.FloatList(value=value))

    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            features = {name: feature(value) for name, value in record.items()}
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


LAYOUTS: dict[str, Callable[[Path, Mapping[str, bytes]], dict[str, str]]] = {
    "tar": write_tar,
    "tar of tars": write_tar_of_tars,
    "stored zip": write_zip,
    "deflated zip": write_deflated_zip,
    "zip64": write_zip64,
    "zip behind a program": write_zip_behind_a_program,
}
