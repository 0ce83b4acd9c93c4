"""An assembler of pickles, hostile files of every kind, and a runner with limits."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import resource
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.checkpoints.files import saved

P2, P4 = b"\x80\x02", b"\x80\x04"
STOP, REDUCE, EMPTY, BUILD, POP, MARK = b".", b"R", b")", b"b", b"0", b"("
MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa85019") + STOP
HEAD = MAGIC + P2 + b"M\xe9\x03" + STOP


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def name(path: str) -> bytes:
    """GLOBAL of a dotted path."""
    module, _, item = path.rpartition(".")
    return b"c" + module.encode() + b"\n" + item.encode() + b"\n"


def stack_name(module: str, item: str) -> bytes:
    return text(module) + text(item) + b"\x93"


def number(value: int) -> bytes:
    return b"\x8a" + bytes([9]) + value.to_bytes(9, "little", signed=True)


def numbers(*values: int) -> bytes:
    return MARK + b"".join(map(number, values)) + b"t"


def call(function: bytes, *args: bytes) -> bytes:
    return function + MARK + b"".join(args) + b"t" + REDUCE


def whole(body: bytes, protocol: bytes = P4) -> bytes:
    return protocol + body + STOP


def blob(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


def storage_id(kind: str = "torch.FloatStorage", key: str = "0", count: int = 1, view: bytes = b"") -> bytes:
    """The persistent id of a storage, answered."""
    return MARK + text("storage") + name(kind) + text(key) + text("cpu") + number(count) + view + b"tQ"


def tensor(storage: bytes, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    return call(
        name("torch._utils._rebuild_tensor_v2"), storage, number(offset), numbers(*size), numbers(*stride),
        b"\x89", call(name("collections.OrderedDict")),
    )  # fmt: skip


def legacy(body: bytes, keys: bytes = b"]", data: bytes = b"", system: bytes | None = None) -> bytes:
    """A legacy archive around the body of its fourth pickle."""
    facts = whole(b"}" + text("little_endian") + b"\x88s", P2) if system is None else system
    return HEAD + facts + whole(body, P2) + whole(keys, P2) + data


def nested_storage(count: int = 4) -> bytes:
    """A good storage inside a bare pickle."""
    return call(name("torch.storage._load_from_bytes"), blob(saved_storage(count)))


def saved_storage(count: int) -> bytes:
    """The legacy archive that a storage of float32 is pickled as."""
    storage = torch.arange(float(count)).untyped_storage()
    return saved(torch.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True), legacy=True)


def evil_legacy() -> bytes:
    """A legacy archive that calls."""
    return legacy(call(name("os.system"), text("true")))


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED, twice: str = "") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for member, data in members.items():
            archive.writestr(zipfile.ZipInfo(member), data, method)
        if twice:
            archive.writestr(zipfile.ZipInfo(twice), b"")
    return out.getvalue()


def torch_zip(body: bytes, **members: bytes) -> bytes:
    """A torch archive around the body of its pickle; members are below `a/`, `_` stands for `/`."""
    held = {f"a/{key.replace('_', '/')}": data for key, data in members.items()}
    return zipped({"a/data.pkl": whole(body, P2), **held, "a/version": b"3\n"})


def header_patched(data: bytes, offset: int, fmt: str, value: int, local: bool = True) -> bytes:
    """Change a field of every member's central (and local) header; `offset` is in the central one."""
    raw = bytearray(data)
    place = raw.find(b"PK\x01\x02")
    while place >= 0:
        struct.pack_into(fmt, raw, place + offset, value)
        place = raw.find(b"PK\x01\x02", place + 4)
    place = raw.find(b"PK\x03\x04") if local else -1
    while place >= 0:
        struct.pack_into(fmt, raw, place + offset - 2, value)
        place = raw.find(b"PK\x03\x04", place + 4)
    return bytes(raw)


def overlapping(copies: int = 50, size: int = 100_000) -> bytes:
    """A zip whose directory lists the same data again and again, each time under another name."""
    raw = zipped({"a/data.pkl": whole(b"}", P2), "a/data/00": bytes(size)})
    place, end = raw.rfind(b"PK\x01\x02"), raw.rfind(b"PK\x05\x06")
    entry, first = raw[place:end], raw.find(b"PK\x01\x02")
    more = b"".join(entry.replace(b"a/data/00", b"a/data/%02d" % i) for i in range(1, copies))
    directory = raw[first:end] + more
    tail = bytearray(raw[end:])
    struct.pack_into("<HHI", tail, 8, copies + 1, copies + 1, len(directory))
    return raw[:first] + directory + bytes(tail)


def safetensors(header: object, length: int | None = None, data: bytes = b"") -> bytes:
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def run_limited(job: Callable[[], Any], timeout_s: float = 60.0, spare_bytes: int = 300 << 20) -> Any:
    """Run a job in a child with little memory to spare; return what it returns, or fail.

    Raises:
        AssertionError: It did not end in time, or died.
    """
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def child() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + spare_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        there.send(job())

    process = context.Process(target=child)
    process.start()
    began = time.monotonic()
    try:
        while not here.poll(0.05):
            assert process.is_alive() or here.poll(0), f"the child died with {process.exitcode}"
            assert time.monotonic() - began < timeout_s, "the child hangs"
        return here.recv()
    finally:
        process.kill()
        process.join()
