"""The pickles in PyTorch's files: containers, numbers, strings and tensors.

Everything else that a checkpoint may contain (`argparse.Namespace`, NumPy scalars, paths, classes of any package)
becomes an inert placeholder: no function or class of the file is imported or called.
"""

import functools
import math
import pickle
import pickletools
from collections.abc import Callable

import ml_dtypes  # noqa: F401 - makes NumPy know bfloat16
import numpy as np

_DTYPES = {
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "DoubleStorage": "float64",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "int8",
    "QUInt8Storage": "uint8",
    "QInt32Storage": "int32",
    "UntypedStorage": "uint8",
}
# Far beyond any checkpoint of an AlexNet. They bound time and memory, and, as Python hashes nested tuples recursively,
# the depth of its stack.
_MAX_OPCODES = 500_000
_MAX_TUPLES = 20_000
_MAX_CLASSES = 1_000
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
_MEMO_WRITES = ("PUT", "BINPUT", "LONG_BINPUT")


class _Inert:
    """What a pickle cannot change."""

    def __setstate__(self, state) -> None:
        """Ignores the attributes that the file wants to set."""


class Placeholder(_Inert, dict):
    """An object that is not built, whatever its class; a dict, since it may have been a kind of dict.

    Attributes:
        source: module and name of the class or function that the file names.
    """

    source = ""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__()

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def ignore(self, *args) -> None:
        """What pickles call to fill a list or a set."""

    append = extend = add = update = ignore


class _Dict(_Inert, dict):
    """A dict whose class is known; state dicts have an attribute, `_metadata`."""


class Tensor(_Inert):
    """A tensor whose numbers are not read yet."""

    def __init__(self, storage: "Storage", offset: int, shape: tuple[int, ...], strides: tuple[int, ...]):
        self._storage, self._offset, self.shape, self._strides = storage, offset, shape, strides
        is_valid = len(shape) == len(strides) and all(
            type(value) is int and value >= 0 for value in (offset, *shape, *strides)
        )
        # A stride of 0 repeats numbers, beyond all memory if it pleases.
        if not is_valid or math.prod(shape) > storage.count:
            raise ValueError("a tensor with more numbers than it has")
        reach = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
        if 0 not in shape and reach > storage.count:
            raise ValueError("a tensor beyond its numbers")

    def numpy(self) -> np.ndarray:
        """Its numbers; raises `ValueError` and what zipfile raises if they are damaged."""
        flat = self._storage.array[self._offset :]
        return np.lib.stride_tricks.as_strided(
            flat, self.shape, [stride * flat.itemsize for stride in self._strides], writeable=False
        )


class Storage(_Inert):
    """The numbers of one or more tensors.

    Args:
        dtype: of NumPy.
        count: how many there are.
        read: gives their bytes.
    """

    def __init__(self, dtype: np.dtype, count: int, read: Callable[[], bytes]):
        if type(count) is not int or count < 0:
            raise ValueError("a storage without a size")
        self.count = count
        self.dtype, self._read = dtype, read

    @functools.cached_property
    def array(self) -> np.ndarray:
        data = self._read()
        if len(data) != self.count * self.dtype.itemsize:
            raise ValueError(f"{len(data):,} bytes of a tensor, where {self.count:,} numbers are named")
        return np.frombuffer(data, self.dtype)


def check_pickle(stream) -> bool:
    """Whether a pickle takes no more memory, and no deeper a stack, than a checkpoint may."""
    opcodes = tuples = memo = 0
    for opcode, argument, _ in pickletools.genops(stream):
        opcodes += 1
        tuples += opcode.name in _TUPLES
        # Python allocates its memo up to the largest index.
        if opcode.name in _MEMO_WRITES:
            memo = max(memo, argument)
        if opcodes > _MAX_OPCODES or tuples > _MAX_TUPLES:
            return False
    if memo > opcodes:
        raise ValueError("an index of its memo is out of range")
    return True


class Unpickler(pickle.Unpickler):
    """Builds containers and tensors.

    Args:
        stream: the pickle, which `check_pickle` has passed.
        storage: gives the storage of a type, a key and a number of numbers.
        is_big_endian: whether numbers are.
    """

    def __init__(self, stream, storage: Callable[[np.dtype, str, int], Storage], is_big_endian: bool):
        # Text of Python 2 may be bytes of any kind.
        super().__init__(stream, encoding="latin1")
        self._storage, self._is_big_endian = storage, is_big_endian
        self._classes: dict[str, type[Placeholder]] = {}
        self._items = 0

    def find_class(self, module: str, name: str):
        """Whatever the file names: a function of this module, or a class of placeholders. Nothing is imported."""
        source = f"{module}.{name}"
        if source in ("collections.OrderedDict", "collections.defaultdict"):
            return _Function(self._dict)
        if source in _REBUILDERS:
            return _REBUILDERS[source]
        if name == "getattr":  # An attribute of a class, such as a class within it.
            return _Function(lambda *args: self.find_class(module, f"getattr.{str(args[-1])[:200]}"))
        if source not in self._classes:
            if len(self._classes) == _MAX_CLASSES:
                raise ValueError("too many classes")
            self._classes[source] = type("Placeholder", (Placeholder,), {"source": source})
        return self._classes[source]

    def persistent_load(self, pid):
        """A storage: ("storage", type, key, device, number of numbers), in the older format with a view of it."""
        if pid and pid[0] == "module":  # The older format keeps the source of a whole model's classes with them.
            return pid[1]
        kind, storage_type, key, _, count, *view = pid
        if kind != "storage" or view not in ([], [None]):
            raise ValueError("a storage of an unknown kind")
        name = storage_type.source.rpartition(".")[2]
        if name not in _DTYPES:
            return Placeholder()
        dtype = np.dtype(_DTYPES[name])
        return self._storage(dtype.newbyteorder(">") if self._is_big_endian else dtype, str(key), count)

    def _dict(self, *args) -> dict:
        """A dict. Python 2 gives an OrderedDict its items at once, which a file could do any number of times."""
        if not args or not isinstance(args[0], list):
            return _Dict()
        self._items += len(args[0])
        if self._items > _MAX_OPCODES:
            raise ValueError("too many items")
        return _Dict(args[0])


class _Function(_Inert):
    """A function that a pickle may call."""

    def __init__(self, function: Callable):
        self._function = function

    def __call__(self, *args):
        return self._function(*args)


def _rebuild_tensor(storage, offset=0, shape=(), strides=(), *_) -> Tensor | Placeholder:
    try:
        return Tensor(storage, offset, tuple(shape), tuple(strides))
    # One that is damaged, or of a type that is not read, such as quantized, matters only if its weights are needed.
    except (AttributeError, TypeError, ValueError):
        return Placeholder()


def _rebuild_parameter(tensor=None, *_):
    return tensor


def _rebuild_from_type(function=None, kind=None, args=(), *_):
    return _rebuild_tensor(*args) if function is _REBUILDERS["torch._utils._rebuild_tensor_v2"] else Placeholder()


# The functions of PyTorch by which tensors are pickled.
_REBUILDERS = {
    source: _Function(function)
    for source, function in {
        "torch._utils._rebuild_tensor": _rebuild_tensor,
        "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
        "torch._utils._rebuild_parameter": _rebuild_parameter,
        "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
        "torch._tensor._rebuild_from_type": _rebuild_from_type,
        "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    }.items()
}
