"""Hostile pickles, each with what its refusal must say."""

from __future__ import annotations

import contextlib
import pickle
import struct
from pathlib import Path

from tests.checkpoints.files import saved
from tests.security.assembler import (
    EMPTY,
    MARK,
    P2,
    P4,
    REDUCE,
    STOP,
    blob,
    call,
    evil_legacy,
    legacy,
    name,
    nested_storage,
    number,
    numbers,
    saved_storage,
    stack_name,
    storage_id,
    tensor,
    text,
    torch_zip,
    whole,
)

FORBIDDEN_NAMES = (
    "os.system",
    "os.popen",
    "os.execv",
    "os.remove",
    "posix.system",
    "nt.system",
    "subprocess.Popen",
    "subprocess.check_output",
    "subprocess.call",
    "builtins.eval",
    "builtins.exec",
    "builtins.compile",
    "builtins.getattr",
    "builtins.setattr",
    "builtins.__import__",
    "builtins.open",
    "builtins.globals",
    "builtins.map",
    "builtins.type",
    "builtins.object",
    "builtins.breakpoint",
    "__builtin__.eval",
    "__builtin__.apply",
    "functools.partial",
    "functools.reduce",
    "importlib.import_module",
    "operator.attrgetter",
    "operator.methodcaller",
    "runpy.run_path",
    "pty.spawn",
    "shutil.rmtree",
    "pickle.loads",
    "_pickle.loads",
    "marshal.loads",
    "types.FunctionType",
    "types.CodeType",
    "code.interact",
    "ctypes.CDLL",
    "webbrowser.open",
    "socket.create_connection",
    "sys.exit",
    "copyreg._reconstructor",
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.save",
    "torch.storage.torch.load",
    "torch._utils.torch.load",
    "torch.nn.modules.linear.Linear",
    "torch.serialization.load",
    "numpy.load",
    "numpy.save",
    "numpy.core.multiarray.fromfile",
    "torch_utils.persistence.import_hook",
    "torch_utils.persistence.persistent_class",
    "dnnlib.util.get_obj_by_name",
    "dnnlib.util.call_func_by_name",
    "dnnlib.tflib.network.Network",
    "collections.OrderedDict.fromkeys",
    "collections.UserDict",
    "argparse.Namespace",
)
"""Names that a bare pickle must not use, however innocent."""


def calls(canary: Path) -> dict[str, bytes]:
    """Pickles that write the canary when Python's own unpickler reads them, one way of calling each."""
    command = text(f"echo x > {canary}")
    line = f"S'echo x > {canary}'\n".encode()
    system = name("os.system")
    return {
        "REDUCE": whole(system + command + b"\x85R"),
        "REDUCE after STACK_GLOBAL": whole(stack_name("os", "system") + command + b"\x85R"),
        "REDUCE of posix": whole(name("posix.system") + command + b"\x85R"),
        "protocol 0": name("os.system") + MARK + line + b"tR.",
        "INST": MARK + line + b"ios\nsystem\n.",
        "INST in protocol 4": whole(MARK + command + b"ios\nsystem\n"),
        "OBJ": whole(MARK + system + command + b"o"),
        "eval": whole(call(name("builtins.eval"), text(f"open({str(canary)!r}, 'w')"))),
        "exec": whole(call(name("builtins.exec"), text(f"open({str(canary)!r}, 'w')"))),
        "open": whole(call(name("builtins.open"), text(str(canary)), text("w"))),
        "Popen": whole(call(name("subprocess.Popen"), MARK + text("touch") + text(str(canary)) + b"l")),
        "getattr": whole(
            call(
                call(name("builtins.getattr"), call(name("builtins.__import__"), text("os")), text("system")),
                command,
            )
        ),
        "import_module": whole(
            call(
                call(name("operator.attrgetter"), text("system")),
                call(name("importlib.import_module"), text("os")),
            )
            + b"0"
            + call(system, command)
        ),
        "partial": whole(call(name("functools.partial"), system, command) + EMPTY + REDUCE),
        "BUILD of __setstate__": whole(
            call(name("types.SimpleNamespace"))
            + b"}"
            + text("__setstate__")
            + system
            + b"sb"
            + command
            + b"b"
        ),
        "NEWOBJ": whole(name("subprocess.Popen") + command + b"\x85\x81"),
    }


def array_state(shape: tuple[int, ...], raw: bytes, code: str = "f8") -> bytes:
    """A NumPy array as its pickles hold it."""
    made = call(name("numpy.core.multiarray._reconstruct"), name("numpy.ndarray"), numbers(0), blob(b"b"))
    dtype = call(name("numpy.dtype"), text(code), b"\x89", b"\x88")
    return made + MARK + number(1) + numbers(*shape) + dtype + b"\x89" + blob(raw) + b"tb"


def laughs(levels: int) -> bytes:
    """A tuple that holds the one before twice, `levels` times over."""
    return b")" + b"2\x86" * levels


def opcode_files() -> dict[str, tuple[bytes, str]]:
    """Pickle -> what the refusal must say, for opcodes and limits."""
    persistent = name("torch_utils.persistence._reconstruct_persistent_obj")
    bad = {
        "NEWOBJ": (whole(name("os._wrap_close") + EMPTY + b"\x81"), "os._wrap_close"),
        "NEWOBJ of nothing": (whole(b"N" + EMPTY + b"\x81"), "NoneType"),
        "NEWOBJ_EX": (whole(name("collections.OrderedDict") + EMPTY + b"}\x92"), "NEWOBJ_EX"),
        "OBJ": (whole(MARK + name("collections.OrderedDict") + b"o"), "OBJ"),
        "INST": (whole(MARK + b"icollections\nOrderedDict\n"), "INST"),
        "INST names": (whole(MARK + b"ios\nsystem\n"), "os system"),
        "EXT1": (whole(b"\x82\x01"), "EXT1"),
        "EXT2": (whole(b"\x83\x01\x00"), "EXT2"),
        "EXT4": (whole(b"\x84\x01\x00\x00\x00"), "EXT4"),
        "PERSID": (whole(b"Pstolen\n"), "PERSID"),
        "PERSID names": (whole(b"Pstolen\n"), "stolen"),
        "BINPERSID": (whole(text("stolen") + b"Q"), "BINPERSID"),
        "NEXT_BUFFER": (whole(b"\x97", b"\x80\x05"), "NEXT_BUFFER"),
        "READONLY_BUFFER": (whole(b"N\x98", b"\x80\x05"), "READONLY_BUFFER"),
        "GLOBAL alone": (whole(name("os.system")), "os.system"),
        "STACK_GLOBAL alone": (whole(stack_name("os", "system")), "os.system"),
        "STACK_GLOBAL dotted": (
            whole(stack_name("torch._utils", "_rebuild_tensor_v2.__globals__")),
            "__globals__",
        ),
        "STACK_GLOBAL of numbers": (whole(b"K\x01K\x02\x93"), "global 1.2"),
        "STACK_GLOBAL unhashable": (whole(b"]]\x93"), "global [].[]"),
        "GLOBAL with a line break": (whole(stack_name("os\nsystem", "x\x1b[2J")), r"os\nsystem.x\x1b[2J"),
        "REDUCE of a text": (whole(text("os.system") + EMPTY + REDUCE), "calls a str"),
        "REDUCE without a tuple": (whole(name("collections.OrderedDict") + b"]R"), "with a list"),
        "BUILD on an allowed name": (
            whole(name("collections.OrderedDict") + b"}" + text("__call__") + b"Nsb"),
            "BUILD",
        ),
        "BUILD of slots on an allowed name": (
            whole(persistent + b"N}" + text("__code__") + b"Ns\x86b"),
            "BUILD",
        ),
        "BUILD on a number": (whole(b"K\x01}b"), "BUILD"),
        "BUILD on a mapping by slots": (whole(b"}N}\x86b"), "BUILD"),
        "BUILD on a network": (
            whole(call(persistent, _meta(text("x"))) + b"}b"),
            "given outside",
        ),
        "an allowed name of storages": (whole(call(name("numpy.ndarray"), numbers(9))), "not be called"),
        "a storage type in a bare pickle": (whole(name("torch.FloatStorage")), "torch.FloatStorage"),
        "nothing": (P4 + STOP, "values over"),
        "two values": (whole(b"NN"), "values over"),
        "an open mark": (whole(b"N(N"), "values over"),
        "memo of nothing": (whole(b"h\x07"), "BINGET"),
        "huge memo place": (whole(b"Nr\xff\xff\xff\x7f0j\xfe\xff\xff\x7f"), "LONG_BINGET"),
        "APPEND to a mapping": (whole(b"}Na"), "APPEND"),
        "SETITEM of a list": (whole(b"]NNs"), "SETITEM"),
        "SETITEMS in odd number": (whole(b"}(Nu"), "SETITEMS"),
        "a key that takes for ever to hash": (whole(b"}" + laughs(60) + b"Ns"), "a tuple cannot be a key"),
        "a member of a set that does": (whole(b"\x8f(" + laughs(60) + b"\x90"), "a tuple cannot be a key"),
        "keys that collide": (whole(b"}" + number(2**61) + b"Ns"), "cannot be a key"),
        "nested tuples": (whole(b")" + b"\x85" * 100_000), "nested deeper"),
        "nested lists": (whole(b"]" * 100_000 + b"a" * 99_999), "nested deeper"),
        "nested mappings": (whole(b"}" + (text("k") + b"}") * 5_000 + b"s" * 5_000), "nested deeper"),
        "nested marks": (whole(MARK * 100_000 + b"t" * 100_000), "containers are open"),
        "a list that contains itself": (whole(b"]\x94h\x00a"), "contains itself"),
        "a network that contains itself": (
            whole(b"}\x94" + call(persistent, _meta(b"h\x00")) + b"\x940" + text("k") + b"h\x01s"),
            "contains itself",
        ),
        "half a million opcodes": (whole(b"N0" * 250_000 + b"N"), "more than 400000 opcodes"),
        "the same list again and again": (
            whole(
                b"]\x94("
                + b"N" * 50_000
                + b"e"
                + (name("builtins.set") + b"h\x00\x85R0") * 3
                + b"0"
                + b"N"
                + (b"0" + name("builtins.list") + b"h\x00\x85R") * 60
            ),
            "again and again",
        ),
        "a number of many digits": (whole(b"I" + b"9" * 5_000 + b"\n"), "digits"),
        "a number of many bytes": (whole(b"\x8b" + struct.pack("<i", 1000) + b"\x7f" * 1000), "bits"),
        "a negative length": (whole(b"\x8b" + struct.pack("<i", -1)), "long4"),
        "unknown opcode": (whole(b"\xff"), "unknown"),
        "unknown protocol": (whole(b"N", b"\x80\x51"), "protocol 81"),
        "byte array of a length": (
            whole(call(name("builtins.bytearray"), number(1 << 40))),
            "byte array made of a int",
        ),
        "another codec": (whole(call(name("_codecs.encode"), text("x"), text("zip"))), "zip"),
        "object array": (whole(call(name("numpy.dtype"), text("O8"), b"\x89", b"\x88")), "more than numbers"),
        "huge array": (whole(array_state((1 << 40,), b"12345678")), "array of shape"),
        "array of another length": (whole(array_state((2,), b"12345678")), "array of shape"),
        "a persistent module": (
            whole(call(persistent, _meta(text("x"), kind="module"))),
            "persistent module of version 6",
        ),
        "another version": (
            whole(call(persistent, _meta(text("x"), version=7))),
            "persistent class of version 7",
        ),
        "a network without state": (whole(call(persistent, b"}")), "persistent None"),
        "tensor past its storage": (whole(tensor(nested_storage(), 2, (3,), (1,))), "exceeds its storage"),
        "tensor by a huge stride": (
            whole(tensor(nested_storage(), 0, (2,), (1 << 40,))),
            "exceeds its storage",
        ),
        "tensor that repeats one number": (
            whole(tensor(nested_storage(), 0, (1 << 40,), (0,))),
            "exceeds its",
        ),
        "tensor before its storage": (whole(tensor(nested_storage(), -1, (1,), (1,))), "offset -1"),
        "tensor over a text": (whole(tensor(text("x"), 0, (1,), (1,))), "a tensor over a str"),
        "the storage again and again": (
            whole(nested_storage(1000) + b"\x940N" + (b"0" + tensor(b"h\x00", 0, (1000,), (1,))) * 9),
            "overlap",
        ),
        "parameter of a name": (
            whole(call(name("torch._utils._rebuild_parameter"), text("x"), b"\x88", b"}")),
            "made of a str",
        ),
    }
    return bad


def _meta(state: bytes, kind: str = "class", version: int = 6) -> bytes:
    """What a persistent object is made of; a text stands for an empty state."""
    held = b"}" if state.startswith(b"X") else state
    return (
        b"}("
        + text("type")
        + text(kind)
        + text("version")
        + number(version)
        + text("module_src")
        + text("raise SystemExit")
        + text("class_name")
        + text("Generator")
        + text("state")
        + held
        + b"u"
    )


def nested_files() -> dict[str, tuple[bytes, str]]:
    """Bare pickles with a legacy archive inside a storage."""

    def load(data: bytes) -> bytes:
        return whole(call(name("torch.storage._load_from_bytes"), blob(data)))

    inner = load(evil_legacy())[2:-1]
    return {
        "call in the archive of a storage": (load(evil_legacy()), "os.system"),
        "INST in the archive": (load(legacy(MARK + text("true") + b"ios\nsystem\n")), "INST"),
        "call in its list of keys": (load(legacy(b"N", call(name("os.system"), text("true")))), "os.system"),
        "call in its facts": (load(legacy(b"N", system=whole(name("os.system"), P2))), "os.system"),
        "archive in the archive": (load(legacy(inner)), "torch.storage._load_from_bytes"),
        "zip in the storage": (load(torch_zip(b"}")), "magic number"),
        "bare pickle in the storage": (load(whole(b"N")), "magic number"),
        "tar in the storage": (load(b"a" * 257 + b"ustar" + bytes(300)), "magic number"),
        "storage of a text": (whole(call(name("torch.storage._load_from_bytes"), text("x"))), "given as str"),
        "archive of a mapping": (load(saved({"a": 1}, legacy=True)), "holds a dict"),
        "archive that claims a terabyte": (
            load(legacy(storage_id(count=1 << 40), b"](" + text("0") + b"e", struct.pack("<q", 1 << 40))),
            "claims",
        ),
        "archive cut short": (load(saved_storage(9)[:-8]), "ends within"),
    }


def huge_lengths() -> dict[str, bytes]:
    """Pickles with a length that exceeds the file, for every opcode that has one."""
    eight, four = struct.pack("<Q", 1 << 40), struct.pack("<I", 0x7FFFFFFF)
    return {
        "BINUNICODE8": whole(b"\x8d" + eight + b"x"),
        "BINUNICODE8 of 2^63": whole(b"\x8d" + struct.pack("<Q", 1 << 63) + b"x"),
        "BINBYTES8": whole(b"\x8e" + eight + b"x"),
        "BYTEARRAY8": whole(b"\x96" + eight + b"x", b"\x80\x05"),
        "LONG4": whole(b"\x8b" + four + b"x"),
        "FRAME": whole(b"\x95" + eight + b"N"),
        "BINUNICODE": whole(b"X" + four + b"x"),
        "BINBYTES": whole(b"B" + four + b"x"),
        "BINSTRING": whole(b"T" + four + b"x"),
        "SHORT_BINUNICODE": whole(b"\x8c\xffx"),
    }


def executes(payload: bytes) -> None:
    """Read a payload with Python's own unpickler, to show that it does harm."""
    with contextlib.suppress(Exception):
        pickle.loads(payload)
