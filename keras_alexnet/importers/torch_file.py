"""PyTorch's files (`torch.save`) as nested dicts of arrays, read without PyTorch and without executing anything.

Both formats are read: a zip archive (since PyTorch 1.6), and a sequence of pickles with the arrays after them. Their
layout is that of `torch/serialization.py`.
"""

import io
import mmap
import struct
import zipfile
from collections.abc import Callable

import numpy as np

from keras_alexnet.errors import UserError, first_line
from keras_alexnet.importers.files import ModelFile
from keras_alexnet.importers.torch_pickle import Storage, Unpickler, check_pickle

SAVE = "save it with torch.save(model.state_dict(), path)"

# The first two pickles of the older format.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_PICKLES_BEFORE_STATE = 3


def read_torch_file(file: ModelFile):
    """Reads what `torch.save` wrote: usually nested dicts, with a `Tensor` or a `Placeholder` at their ends.

    Raises:
        UserError: the file is damaged, a TorchScript archive, or not of torch.save.
    """
    try:
        if bytes(file.data[:2]) == b"PK":
            return _read_zip(file)
        return _read_pickles(file)
    except UserError:
        raise
    # What pickle, pickletools and zipfile raise at damaged files, and what malicious ones provoke.
    except Exception as error:
        raise file.error(f"cannot be read ({first_line(error)})") from None


def _read_zip(file: ModelFile):
    # By its path: zipfile reads only the entries that are used.
    archive = zipfile.ZipFile(file.path)
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    # The folder's name is that of the file when it was saved.
    (folder,) = {name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl") or name == "data.pkl"}
    if f"{folder}constants.pkl" in names:
        raise UserError(
            f"{file.path} is a TorchScript archive (torch.jit.save), which holds a program. Nothing of it was "
            f"executed. Expected {file.expected}: in PyTorch, run model = torch.jit.load(path) and "
            "torch.save(model.state_dict(), new_path), and convert the new file."
        )
    if sum(entry.file_size for entry in entries) > len(file) or any(entry.compress_type for entry in entries):
        raise UserError(
            f"{file.path} is a zip archive with compressed entries, which torch.save does not write. Expected "
            f"{file.expected}: if it was packed, unpack it."
        )
    is_big_endian = f"{folder}byteorder" in names and archive.read(f"{folder}byteorder").strip() == b"big"

    def storage(dtype: np.dtype, key: str, count: int) -> Storage:
        return Storage(dtype, count, lambda: archive.read(f"{folder}data/{key}"))

    return _load(file, io.BytesIO(archive.read(f"{folder}data.pkl")), storage, is_big_endian)


def _read_pickles(file: ModelFile):
    """The older format: three pickles of facts, the state, the keys of the storages, and the storages in that order."""
    storages: dict[str, Storage] = {}
    places: dict[str, tuple[int, int]] = {}

    def storage(dtype: np.dtype, key: str, count: int) -> Storage:
        def read() -> bytes:
            start, end = places[key]
            return file.data[start:end]

        return storages.setdefault(key, Storage(dtype, count, read))

    is_big_endian = False
    pickles = []
    with open(file.path, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        for _ in range(_PICKLES_BEFORE_STATE + 2):
            pickles.append(_load(file, stream, storage, is_big_endian))
            if pickles[:2] not in ([_MAGIC], [_MAGIC, _PROTOCOL]):
                raise UserError(
                    f"{file.path} is a pickle, but not of torch.save (or of PyTorch before 0.2). Nothing of it was "
                    f"executed. Expected {file.expected}: {SAVE}."
                )
            if len(pickles) == _PICKLES_BEFORE_STATE:
                is_big_endian = not pickles[-1].get("little_endian", True)
        end = stream.tell()
    state, keys = pickles[-2:]
    for key in keys:
        (count,) = struct.unpack_from(">q" if is_big_endian else "<q", file.data, end)
        start, end = end + 8, end + 8 + count * storages[key].dtype.itemsize
        if count != storages[key].count or end > len(file):
            raise ValueError("its numbers are cut off")
        places[key] = (start, end)
    return state


def _load(file: ModelFile, stream, storage: Callable[[np.dtype, str, int], Storage], is_big_endian: bool):
    start = stream.tell()
    if not check_pickle(stream):
        raise UserError(
            f"{file.path} holds more Python objects than the checkpoint of an AlexNet has. Expected {file.expected}: "
            f"{SAVE}."
        )
    stream.seek(start)
    return Unpickler(stream, storage, is_big_endian).load()
