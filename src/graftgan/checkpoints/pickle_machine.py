"""A machine for pickle streams that can only build plain values and call what a table allows.

Python's own unpickler imports, calls and sets attributes of anything that a stream names. This one knows the
opcodes that network files need and no others, so there is nothing to escape from: a global is a row of a
table, a call is a call of that row's function, and state is given to objects of a few inert kinds only.

Limits keep the work and the memory within a small multiple of the stream's length, plus 100 MB or so.
"""

from __future__ import annotations

import io
import mmap
import pickle
import pickletools
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor

from graftgan.checkpoints.imported import refuse
from graftgan.checkpoints.nesting import MAX_NESTING, Buildable, check_nesting
from graftgan.errors import CheckpointError

MAX_OPCODES = 400_000
MAX_INT_BITS = 128
MAX_ARRAY_SIDE = 1 << 31
MAX_COPIED_ITEMS = 1_000_000
MAX_TENSOR_OVERLAP = 4
SPARE_BYTES = 1 << 20
SHOWN_CHARACTERS = 120

REFUSED_OPCODES: dict[str, str] = {
    "INST": "it calls a class by name",
    "OBJ": "it calls a class",
    "NEWOBJ_EX": "it calls a class with keywords, which no network file does",
    "EXT1": "it calls through the extension registry",
    "EXT2": "it calls through the extension registry",
    "EXT4": "it calls through the extension registry",
    "PERSID": "it asks the reader for a persistent id in text form",
    "BINPERSID": "it asks the reader for a persistent id",
    "NEXT_BUFFER": "it asks for a buffer from outside the file",
    "READONLY_BUFFER": "it asks for a buffer from outside the file",
}
"""Opcode -> why a stream that holds it is refused; torch archives may use BINPERSID for their storages."""

LITERALS = frozenset(
    {
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
        "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
        "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    }
)  # fmt: skip
"""Opcodes whose argument is the value."""

Stream = io.BytesIO | mmap.mmap


@dataclass(frozen=True, eq=False)
class Allowed:
    """A global that a stream may name.

    Attributes:
        make: Called in its place with the stream's arguments.
        why: What it is for, and why `make` is harmless.
        where: Kind of file it belongs in: a bare `pickle`, a torch `archive`, or `both`.
        dtype: For a torch storage type, the type of its elements.
        lent: Whether torch's own restricted loader must be lent `make`, as it does not know the name.
    """

    make: Callable[..., Any]
    why: str
    where: str = "both"
    dtype: torch.dtype | None = None
    lent: bool = False


_BRIEF = reprlib.Repr()
_BRIEF.maxlevel = 3
Table = Mapping[tuple[str, str], Allowed]
PersistentLoad = Callable[[object], object]


def shown(value: object) -> str:
    """Return a stream's value for a message: control characters escaped, long ones cut.

    Of collections only the beginning is looked at: one that holds itself twice, at sixty levels, is short in
    the file and would be endless in words.
    """
    plain = str(value) if isinstance(value, (str, BaseException)) else _BRIEF.repr(value)
    text = plain.encode("unicode_escape", "replace").decode("ascii")
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def scan(stream: Stream, path: Path, persistent_ids: bool = False) -> None:
    """Read one pickle up to its STOP without building anything, and go back to where it began.

    Raises:
        CheckpointError: An opcode is refused or unknown, a length exceeds what is left of the file, a number
            is too large, or there are too many opcodes or open containers.
    """
    start, size = stream.tell(), size_of(stream)
    opened = 0
    for count, (opcode, arg, position) in enumerate(_opcodes(stream, path)):
        where = f"opcode {opcode.name} at byte {position}"
        if opcode.name in REFUSED_OPCODES and not (persistent_ids and opcode.name == "BINPERSID"):
            named = "" if arg is None else f" ({shown(arg)})"
            raise refuse(path, f"{where}{named} is refused: {REFUSED_OPCODES[opcode.name]}")
        if isinstance(arg, int) and arg.bit_length() > MAX_INT_BITS:
            raise refuse(path, f"{where} holds a number of {arg.bit_length()} bits")
        if opcode.name == "FRAME" and arg > size - stream.tell():
            raise refuse(path, f"{where} has a length of {arg} bytes, {size - stream.tell()} are left")
        if opcode.name == "PROTO" and arg > pickle.HIGHEST_PROTOCOL:
            raise refuse(path, f"{where} claims protocol {arg}")
        opened += opcode.name == "MARK"
        opened -= pickletools.markobject in opcode.stack_before
        if opened > MAX_NESTING:
            raise refuse(path, f"{where}: more than {MAX_NESTING} containers are open")
        if count >= MAX_OPCODES:
            raise refuse(path, f"has more than {MAX_OPCODES} opcodes")
    stream.seek(start)


class Machine:
    """Reads pickles of one file.

    Args:
        path: The file, for messages.
        table: What globals stand for.
        persistent_load: Takes the persistent ids of a torch archive; None refuses them.
    """

    def __init__(self, path: Path, table: Table, persistent_load: PersistentLoad | None = None) -> None:
        self.path = path
        self.table = table
        self.persistent_load = persistent_load
        self.storage_bytes = 0
        self._tensor_bytes = 0
        self._copied_bytes = 0
        self._copied_items = 0

    def run(self, stream: Stream) -> Any:
        """Read one pickle, leaving the stream behind it.

        Raises:
            CheckpointError: The stream is damaged, names what the table lacks, or exceeds a limit.
        """
        scan(stream, self.path, self.persistent_load is not None)
        self._size = size_of(stream)
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        for opcode, arg, position in _opcodes(stream, self.path):
            try:
                self._step(opcode.name, arg)
            except CheckpointError:
                raise
            except Exception as error:
                # Whatever a hostile stream provokes is a refusal.
                why = f"{type(error).__name__}: {shown(error)}"
                raise refuse(self.path, f"opcode {opcode.name} at byte {position} fails: {why}") from None
        if self._outer or len(self._stack) != 1:
            raise refuse(self.path, "leaves values over when it stops")
        value = self._stack.pop()
        check_nesting(value, self.path)
        return value

    def _step(self, name: str, arg: Any) -> None:
        if name in LITERALS:
            self._stack.append(arg)
        elif name in CONSTANTS:
            self._stack.append(CONSTANTS[name]())
        else:
            getattr(self, f"_{name.lower()}")(arg)

    def _ignore(self, arg: Any) -> None:
        pass

    _proto = _frame = _stop = _ignore

    def _mark(self, arg: Any) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._outer.pop()
        return items

    def _pop(self, arg: Any) -> None:
        self._stack.pop()

    def _pop_mark(self, arg: Any) -> None:
        self._since_mark()

    def _dup(self, arg: Any) -> None:
        self._stack.append(self._stack[-1])

    def _put(self, arg: Any) -> None:
        self._memo[arg] = self._stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, arg: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, arg: Any) -> None:
        self._stack.append(self._memo[arg])

    _binget = _long_binget = _get

    def _tuple(self, arg: Any) -> None:
        items = tuple(self._since_mark())
        self._stack.append(items)

    def _tuple1(self, arg: Any) -> None:
        self._stack[-1:] = [(self._stack[-1],)]

    def _tuple2(self, arg: Any) -> None:
        self._stack[-2:] = [(self._stack[-2], self._stack[-1])]

    def _tuple3(self, arg: Any) -> None:
        self._stack[-3:] = [(self._stack[-3], self._stack[-2], self._stack[-1])]

    def _list(self, arg: Any) -> None:
        items = self._since_mark()
        self._stack.append(items)

    def _append(self, arg: Any) -> None:
        item = self._stack.pop()
        _expect(self._stack[-1], list).append(item)

    def _appends(self, arg: Any) -> None:
        items = self._since_mark()
        _expect(self._stack[-1], list).extend(items)

    def _dict(self, arg: Any) -> None:
        items = self._since_mark()
        self._stack.append({})
        self._fill(items)

    def _setitem(self, arg: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._fill([key, value])

    def _setitems(self, arg: Any) -> None:
        self._fill(self._since_mark())

    def _fill(self, items: list[Any]) -> None:
        target = _expect(self._stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[hashable(key)] = value

    def _additems(self, arg: Any) -> None:
        items = self._since_mark()
        _expect(self._stack[-1], set).update(map(hashable, items))

    def _frozenset(self, arg: Any) -> None:
        items = self._since_mark()
        self._stack.append(frozenset(map(hashable, items)))

    def _global(self, arg: Any) -> None:
        module, _, name = arg.partition(" ")
        self._stack.append(self._allowed(module, name))

    def _stack_global(self, arg: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(self._allowed(module, name))

    def _allowed(self, module: object, name: object) -> Allowed:
        if isinstance(module, str) and isinstance(name, str) and (module, name) in self.table:
            return self.table[module, name]
        raise refuse(
            self.path,
            f"global {shown(module)}.{shown(name)} is not among the names that a network file may use; "
            "it was not imported",
        )

    def _reduce(self, arg: Any) -> None:
        args, target = self._stack.pop(), self._stack.pop()
        if not isinstance(target, Allowed) or type(args) is not tuple:
            raise refuse(self.path, f"calls a {type(target).__name__} with a {type(args).__name__}")
        self._account(args)
        made = target.make(*args)
        self._account_made(made, args)
        self._stack.append(made)

    _newobj = _reduce

    def _build(self, arg: Any) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, dict) and isinstance(state, dict):
            # Attributes of a mapping, such as the versions that `state_dict` notes: nothing reads them.
            return
        if isinstance(target, np.ndarray):
            set_array(target, state)
            self._account(state)
        elif isinstance(target, Buildable):
            target.__setstate__(state)
        else:
            raise refuse(self.path, f"opcode BUILD sets the state of a {type(target).__name__}")

    def _binpersid(self, arg: Any) -> None:
        assert self.persistent_load is not None
        self._stack.append(self.persistent_load(self._stack.pop()))

    def _account(self, args: Iterable[Any]) -> None:
        for value in args:
            if isinstance(value, (bytes, bytearray, str)):
                self._copied_bytes += len(value)
            elif isinstance(value, (list, tuple, dict, set, frozenset)):
                self._copied_items += len(value)
        if self._copied_bytes > self._size + SPARE_BYTES or self._copied_items > MAX_COPIED_ITEMS:
            raise refuse(self.path, "copies the same values again and again")

    def _account_made(self, made: Any, args: tuple[Any, ...]) -> None:
        if isinstance(made, torch.TypedStorage):
            self.storage_bytes += made._untyped_storage.nbytes()
        elif isinstance(made, Tensor) and made is not args[0]:
            self._tensor_bytes += made.numel() * made.element_size()
            if self._tensor_bytes > MAX_TENSOR_OVERLAP * self.storage_bytes:
                raise refuse(self.path, "its tensors overlap: they are larger than their storages")


CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set,
}  # fmt: skip
"""Opcodes without argument that push a value."""


def hashable(value: Any) -> Any:
    """Return a value that may be a key: text, a whole number or None.

    Nested tuples could take exponential time to hash, and chosen numbers could be made to collide.

    Raises:
        TypeError: The value is of another kind.
    """
    if value is None or isinstance(value, str) or (isinstance(value, int) and value.bit_length() < 61):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be a key here")


def set_array(array: Any, state: Any) -> None:
    """Give an empty NumPy array its state: version, shape, element type, column order, bytes."""
    version, shape, dtype, fortran, raw = state
    _expect(shape, tuple)
    _expect(raw, bytes)
    count = 1
    for side in shape:
        if type(side) is not int or not 0 <= side < MAX_ARRAY_SIDE:
            raise ValueError(f"array of shape {shown(shape)}")
        count *= side
    if count * dtype.value.itemsize != len(raw):
        raise ValueError(f"array of shape {shown(shape)} in {len(raw)} bytes")
    array.__setstate__((int(version), shape, dtype.value, bool(fortran), raw))


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} where a {kind.__name__} belongs")
    return value


def size_of(stream: Stream) -> int:
    """Return the length of a stream in bytes, wherever it stands."""
    return stream.size() if isinstance(stream, mmap.mmap) else stream.getbuffer().nbytes


def _opcodes(stream: Stream, path: Path) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int]]:
    try:
        for opcode, arg, position in pickletools.genops(cast(IO[bytes], stream)):
            yield opcode, arg, position or 0
    except (ValueError, OverflowError, MemoryError) as error:
        raise refuse(path, f"is no whole pickle: {shown(error)}") from None
