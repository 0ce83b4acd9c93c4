"""Network pickles and legacy torch archives, read without importing or running anything that they name.

`ALLOWED` is the whole list of what a file may name, each with the function that stands in for it. Networks
pickled by NVIDIA's `torch_utils.persistence` carry their Python source, which the stock loader executes; here
the source is dropped and the object becomes an inert `Stub`.
"""

from __future__ import annotations

import io
import math
import mmap
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftgan.checkpoints.imported import refuse
from graftgan.checkpoints.nesting import Buildable
from graftgan.checkpoints.pickle_machine import Allowed, Machine, Stream, hashable, shown, size_of

LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
"""A legacy torch archive begins with the pickle of its magic number."""
PERSISTENCE_VERSION = 6
MAX_DIMENSIONS = 8
MAX_SIDE = 1 << 40
COUNT_BYTES = 8
NUMPY_KINDS = "biufc"


class Stub(Buildable):
    """An object of a class that is not here: its name and attributes, and no behaviour.

    Attributes:
        class_name: Name of the class in the file.
        state: The object's attributes.
        module: Module that the file names, or that wrote the object.
    """

    def __init__(self, class_name: str, state: dict[str, Any], module: str) -> None:
        self.class_name = class_name
        self.state = state
        self.module = module

    def __repr__(self) -> str:
        return f"Stub({self.module}.{self.class_name}, {len(self.state)} attributes)"

    def __setstate__(self, state: object) -> None:
        raise TypeError(f"state of a {self.class_name} given outside of its description")


class NamespaceStub(Stub):
    """Command-line arguments that a training script kept."""

    # Torch's restricted loader calls `__new__` alone, so these cannot wait for `__init__`.
    class_name = "Namespace"
    module = "argparse"

    def __init__(self) -> None:
        self.state = {}

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise TypeError(f"{type(state).__name__} as the attributes of a Namespace")
        self.state = dict(state)


class NumpyType(Buildable):
    """A plain NumPy element type: truth values, whole, real or complex numbers."""

    def __init__(self, code: str, *_: object) -> None:
        self.value = np.dtype(str(code)[:4])
        if self.value.kind not in NUMPY_KINDS:
            raise TypeError(f"NumPy type {self.value} holds more than numbers")

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        self.value = self.value.newbyteorder("=" if order == "|" else order)


def persistent_stub(meta: dict[str, Any]) -> Stub:
    """Stand in for an object that `torch_utils.persistence` wrote; its `module_src` is dropped unread."""
    if meta.get("type") != "class" or meta.get("version") != PERSISTENCE_VERSION:
        found = f"{shown(meta.get('type'))} of version {shown(meta.get('version'))}"
        raise ValueError(f"a persistent {found} is not a class of version {PERSISTENCE_VERSION}")
    name, state = meta["class_name"], meta["state"]
    if not isinstance(name, str) or not isinstance(state, dict):
        raise TypeError("a persistent object without a class name or a state")
    return Stub(name, state, "torch_utils.persistence")


def nested_storage(data: bytes) -> torch.TypedStorage:
    """Read the legacy archive that a tensor's storage is pickled as; it may hold that storage and no more."""
    if not isinstance(data, bytes):
        raise TypeError(f"a storage given as {type(data).__name__}")
    stored = load_legacy(io.BytesIO(data), Path("the archive nested in a storage"))
    if not isinstance(stored, torch.TypedStorage):
        raise TypeError(f"an archive nested in a storage holds a {type(stored).__name__}")
    return stored


def rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: object) -> Tensor:
    """Lay a tensor over a storage, which must have room for all of its elements."""
    if not isinstance(storage, torch.TypedStorage):
        raise TypeError(f"a tensor over a {type(storage).__name__}")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
        raise ValueError(f"a tensor of {len(size)} sizes and {len(stride)} strides")
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError(f"a tensor of size {shown(size)}, stride {shown(stride)}, offset {shown(offset)}")
    held = storage._untyped_storage.nbytes() // storage.dtype.itemsize
    count = math.prod(size)
    last = offset + sum((s - 1) * step for s, step in zip(size, stride, strict=True)) if count else offset
    if count > held or (count and last >= held) or max(numbers) > MAX_SIDE:
        raise ValueError(f"a tensor of size {shown(size)} at {offset} exceeds its storage of {held} elements")
    empty = torch.empty(0, dtype=storage.dtype, device=storage._untyped_storage.device)
    return empty.set_(storage._untyped_storage, offset, torch.Size(size), stride)


def same_tensor(data: Any, *_: object) -> Tensor:
    """Return a parameter's tensor as it is."""
    if not isinstance(data, Tensor):
        raise TypeError(f"a parameter made of a {type(data).__name__}")
    return data


def numpy_scalar(dtype: Any, data: Any = b"") -> object:
    """Return a NumPy number as a plain one."""
    raw = encode(data, "latin1") if isinstance(data, str) else data
    if not isinstance(dtype, NumpyType) or len(raw) != dtype.value.itemsize:
        raise TypeError("a NumPy number without a plain type, or of another length")
    return np.frombuffer(raw, dtype.value)[0].item()


def empty_array(kind: Any, shape: Any, code: Any) -> NDArray[Any]:
    """Return the empty array that the stream then fills."""
    if kind is not ALLOWED["numpy", "ndarray"] or tuple(shape) != (0,):
        raise TypeError("a NumPy array that does not begin empty")
    return np.empty(0, np.int8)


def encode(text: str, encoding: str = "latin1") -> bytes:
    """Return the bytes that protocol 2 writes as text."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes written in {shown(encoding)}")
    return text.encode("latin1")


def ordered(pairs: Any = ()) -> OrderedDict[Any, Any]:
    """Return an ordered mapping of pairs with plain keys."""
    return OrderedDict((hashable(key), value) for key, value in pairs)


def plain(kind: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return a maker of a plain collection from none or one."""

    def make(*args: Any) -> Any:
        (items,) = args or ((),)
        if not isinstance(items, (list, tuple, set, frozenset)):
            raise TypeError(f"a collection made of a {type(items).__name__}")
        return kind(items)

    return make


def raw_bytes(value: Any = b"", encoding: str = "latin1") -> bytearray:
    """Return a byte array of given bytes; a number, which would be a length, is refused."""
    if isinstance(value, str):
        value = encode(value, encoding)
    if not isinstance(value, bytes):
        raise TypeError(f"a byte array made of a {type(value).__name__}")
    return bytearray(value)


def not_called(*_: object) -> Any:
    """Refuse to be called: the name is for use as an argument only."""
    raise TypeError("this name may be an argument, not be called")


def number(kind: type) -> Callable[..., Any]:
    """Return a maker of a number from numbers."""

    def make(*args: Any) -> Any:
        if not all(isinstance(arg, (int, float)) for arg in args):
            raise TypeError(f"{kind.__name__} of something that is not a number")
        return kind(*args)

    return make


_COLLECTION = "Python's own collection; made of what the stream has already listed"
_NUMBER = "a plain number; made of numbers only"
_TENSOR = "lays a tensor over a storage; bounds are checked first"
_NUMPY = "numbers of NumPy in attributes, such as StyleGAN3's sizes"
_BUILTINS: dict[str, Allowed] = {
    "set": Allowed(plain(lambda items: {hashable(i) for i in items}), _COLLECTION),
    "frozenset": Allowed(plain(lambda items: frozenset(hashable(i) for i in items)), _COLLECTION),
    "list": Allowed(plain(list), _COLLECTION),
    "tuple": Allowed(plain(tuple), _COLLECTION),
    "dict": Allowed(plain(lambda pairs: dict(ordered(pairs))), _COLLECTION),
    "int": Allowed(number(int), _NUMBER),
    "float": Allowed(number(float), _NUMBER),
    "bool": Allowed(number(bool), _NUMBER),
    "complex": Allowed(number(complex), _NUMBER),
    "slice": Allowed(lambda *args: ("slice", *args), "a range in an attribute; kept as a tuple"),
    "bytes": Allowed(lambda *args: bytes(raw_bytes(*args)), "empty bytes, as protocol 2 writes them"),
    "bytearray": Allowed(raw_bytes, "bytes that may change; made of bytes, never of a length"),
}
_NUMPY_CORE: dict[str, Allowed] = {
    "scalar": Allowed(numpy_scalar, f"{_NUMPY}; becomes a plain number", lent=True),
    "_reconstruct": Allowed(empty_array, f"{_NUMPY}; filled from bytes of the right length", "pickle"),
}

ALLOWED: dict[tuple[str, str], Allowed] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Allowed(
        persistent_stub, "a network of NVIDIA's; becomes an inert Stub, its source is never run", "pickle"
    ),
    ("dnnlib.util", "EasyDict"): Allowed(plain(dict), "a mapping of settings; becomes a dict", "pickle"),
    ("collections", "OrderedDict"): Allowed(ordered, "parameters and modules in their order"),
    ("torch.storage", "_load_from_bytes"): Allowed(
        nested_storage, "a tensor's numbers; the archive inside is read with this same list", "pickle"
    ),
    ("torch._utils", "_rebuild_tensor"): Allowed(rebuild_tensor, _TENSOR),
    ("torch._utils", "_rebuild_tensor_v2"): Allowed(rebuild_tensor, _TENSOR),
    ("torch._utils", "_rebuild_parameter"): Allowed(same_tensor, "a parameter; its tensor is kept"),
    ("torch._utils", "_rebuild_parameter_with_state"): Allowed(
        same_tensor, "a parameter with attributes; its tensor is kept"
    ),
    ("numpy", "dtype"): Allowed(NumpyType, f"{_NUMPY}; numbers only, no objects", lent=True),
    ("numpy", "ndarray"): Allowed(not_called, f"{_NUMPY}; an argument, never called", "pickle"),
    ("_codecs", "encode"): Allowed(encode, "bytes as protocol 2 writes them; Latin-1 only"),
    ("argparse", "Namespace"): Allowed(
        NamespaceStub, "arguments of a training script; becomes an inert Stub", "archive", lent=True
    ),
    **{
        (module, name): row
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name, row in _NUMPY_CORE.items()
    },
    **{
        (module, name): row
        for module in ("builtins", "__builtin__")
        for name, row in _BUILTINS.items()
    },
    **{
        ("torch", f"{name}Storage"): Allowed(
            not_called, f"type of a storage of {dtype}; an argument, never called", "archive", dtype
        )
        for name, dtype in (
            ("Float", torch.float32), ("Double", torch.float64), ("Half", torch.float16),
            ("BFloat16", torch.bfloat16), ("Long", torch.int64), ("Int", torch.int32),
            ("Short", torch.int16), ("Char", torch.int8), ("Byte", torch.uint8), ("Bool", torch.bool),
        )
    },
}  # fmt: skip
"""(module, name) -> what stands in for it, and why it is allowed; all other names are refused."""


def rows(where: str) -> dict[tuple[str, str], Allowed]:
    """Return the part of the table for bare pickles (`pickle`) or torch archives (`archive`)."""
    return {name: row for name, row in ALLOWED.items() if row.where in (where, "both")}


def unpickle(stream: mmap.mmap | io.BytesIO, path: Path) -> Any:
    """Read a bare pickle: numbers, texts, collections, tensors and, for networks, `Stub`.

    Raises:
        CheckpointError: It is damaged, too large, or names anything outside of `ALLOWED`.
    """
    return Machine(path, rows("pickle")).run(stream)


def restricted_load(source: Any, path: Path) -> Any:
    """Load a torch archive, which must have been checked, with torch's own restricted loader.

    Raises:
        CheckpointError: Torch refuses it.
    """
    lent: list[Any] = [(row.make, f"{module}.{name}") for (module, name), row in ALLOWED.items() if row.lent]
    try:
        with torch.serialization.safe_globals(lent), warnings.catch_warnings(action="ignore"):
            return torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        # Any failure of its loader on an odd file means the same: the file cannot be used.
        why = f"{type(error).__name__}: {shown(str(error).splitlines()[0] if str(error) else '')}"
        raise refuse(path, f"torch cannot read it: {why}") from None


class StorageLedger:
    """Answers the persistent ids of a torch archive with storages that take no memory.

    Args:
        path: The file, for messages.
        check: Called with a storage's key and size in bytes when it is first met; raises if the archive does
            not hold as much.
    """

    def __init__(self, path: Path, check: Callable[[str, int], None]) -> None:
        self.path = path
        self.check = check
        self.sizes: dict[str, int] = {}
        self.machine: Machine | None = None

    def __call__(self, pid: Any) -> torch.TypedStorage:
        """Return the storage that a persistent id stands for.

        Raises:
            CheckpointError: It is no storage, or is larger than what the archive holds.
        """
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
            kind = pid[0] if type(pid) is tuple and pid else pid
            raise refuse(self.path, f"has a persistent id that is no storage: {shown(kind)}")
        kind, key, _, count = pid[1:5]
        if not isinstance(kind, Allowed) or kind.dtype is None or type(count) is not int or count < 0:
            raise refuse(self.path, f"has a storage of unknown type or size: {shown(pid[2:5])}")
        if not isinstance(key, str) or pid[5:] not in ((), (None,)):
            raise refuse(self.path, f"has a storage that is a view of another: {shown(key)}")
        size = count * kind.dtype.itemsize
        if key not in self.sizes:
            self.check(key, size)
            self.sizes[key] = size
            if self.machine is not None:
                self.machine.storage_bytes += size
        elif self.sizes[key] != size:
            raise refuse(self.path, f"has two storages of one name, {shown(key)}")
        blank = torch.UntypedStorage(size, device="meta")
        return torch.TypedStorage(wrap_storage=blank, dtype=kind.dtype, _internal=True)


def archive_machine(path: Path, check: Callable[[str, int], None]) -> tuple[Machine, StorageLedger]:
    """Return a machine for the pickle inside a torch archive, and the ledger of its storages."""
    ledger = StorageLedger(path, check)
    ledger.machine = Machine(path, rows("archive"), ledger)
    return ledger.machine, ledger


def load_legacy(stream: Stream, path: Path) -> Any:
    """Read a legacy torch archive: five pickles, then the storages.

    The pickles are first read by the machine, with storages that take no memory, so that torch's loader,
    which reserves what a file claims to hold, meets only claims that the file's length bears out.

    Raises:
        CheckpointError: It is damaged, or holds what the table does not allow.
    """
    start, total = stream.tell(), size_of(stream)

    def check(key: str, size: int) -> None:
        if size + sum(ledger.sizes.values()) > total:
            raise refuse(path, f"storage {shown(key)} claims {size} bytes, more than the file holds")

    machine, ledger = archive_machine(path, check)
    if stream.read(len(LEGACY_MAGIC)) != LEGACY_MAGIC:
        raise refuse(path, "lacks the magic number of a torch archive")
    stream.seek(start)
    head = [Machine(path, {}).run(stream) for _ in range(3)]
    if head[1] != 1001 or not isinstance(head[2], dict) or head[2].get("little_endian") is not True:
        raise refuse(path, f"is a torch archive of another version or byte order: {shown(head[1:])}")
    machine.run(stream)
    keys = Machine(path, {}).run(stream)
    texts = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not texts or set(keys) != set(ledger.sizes) or len(keys) != len(ledger.sizes):
        raise refuse(path, f"its list of storages is not that of its tensors: {shown(keys)}")
    _check_storages(stream, path, keys, ledger.sizes)
    stream.seek(start)
    return restricted_load(stream, path)


def _check_storages(stream: Stream, path: Path, keys: list[str], sizes: dict[str, int]) -> None:
    for key in keys:
        # Each storage is preceded by its length in elements, which torch's loader compares.
        if stream.tell() + COUNT_BYTES + sizes[key] > size_of(stream):
            raise refuse(path, f"ends within storage {shown(key)}")
        stream.seek(COUNT_BYTES + sizes[key], 1)
