"""Opens a checkpoint of any known container, told apart by its first bytes, running none of what it holds."""

from __future__ import annotations

import io
import json
import mmap
import re
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from graftgan.checkpoints.imported import Content, refuse
from graftgan.checkpoints.pickle_machine import shown
from graftgan.checkpoints.store import SPEC, WEIGHTS, read_tensors
from graftgan.checkpoints.unpickle import (
    LEGACY_MAGIC,
    archive_machine,
    load_legacy,
    restricted_load,
    unpickle,
)
from graftgan.errors import MissingInput

MAX_FILE_BYTES = 8 << 30
MAX_JSON_BYTES = 1 << 20
MAX_PICKLE_BYTES = 64 << 20
MAX_MEMBERS = 20_000
MAX_DIRECTORY_BYTES = 4 << 20
MAX_HEADER_BYTES = 100 << 20
TAIL_BYTES = 1 << 16
PICKLE_STARTS = b"\x80(}]c"
"""First bytes of the pickles of mappings and objects, from protocol 2 on and before."""
FOLDERS = (
    re.compile(re.escape(WEIGHTS)),
    re.compile(r"[GD](_(?!optim)\w+)?\.pth"),
    re.compile(r"pytorch_model\.bin"),
    re.compile(r"model\.safetensors"),
)
"""Names of the files that make up a checkpoint folder; those of the first kind that is there are opened."""
CONFIGS = (SPEC, "config.json")


def open_content(path: Path) -> Content:
    """Open a checkpoint.

    Args:
        path: A torch archive (new or legacy), a network pickle, a safetensors file; or a folder with
            `gan.safetensors` and `spec.json`, BigGAN's `G_ema.pth` and `D.pth`, or `pytorch_model.bin` or
            `model.safetensors` and `config.json`.

    Raises:
        MissingInput: There is nothing at `path`.
        CheckpointError: It is of another kind, damaged, too large, or asks for what is not allowed.
    """
    if path.is_dir():
        return _open_folder(path)
    container, tree, metadata = _open_file(path)
    return Content(path, container, tree, metadata or _config(path.parent))


def _open_folder(path: Path) -> Content:
    held = sorted(file.name for file in path.iterdir() if file.is_file())
    for pattern in FOLDERS:
        if present := [name for name in held if pattern.fullmatch(name)]:
            tree = {name: _open_file(path / name)[1] for name in present}
            return Content(path, "folder", tree, _config(path))
    raise refuse(path, "is a folder without a checkpoint", held)


def _config(folder: Path) -> dict[str, Any]:
    """Return the settings beside a checkpoint, or nothing."""
    for name in CONFIGS:
        file = folder / name
        if not file.is_file():
            continue
        if file.stat().st_size > MAX_JSON_BYTES:
            raise refuse(file, f"is larger than {MAX_JSON_BYTES >> 20} MiB")
        return _json_object(file.read_bytes(), file)
    return {}


def _json_object(raw: bytes | str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise refuse(path, f"is not JSON: {shown(error)}") from None
    if not isinstance(value, dict):
        raise refuse(path, f"is not a JSON object but a {type(value).__name__}")
    return value


def _open_file(path: Path) -> tuple[str, Any, dict[str, Any]]:
    """Return container, tree and settings found inside."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise MissingInput(f"{path} cannot be read: {error.strerror}", "correct the path") from None
    if size > MAX_FILE_BYTES:
        raise refuse(path, f"is larger than {MAX_FILE_BYTES >> 30} GiB")
    if size == 0:
        raise refuse(path, "is empty")
    with _mapped(path) as stream:
        start = stream[:16]
        if start.startswith(b"PK\x03\x04"):
            return "torch", _open_zip(path, stream), {}
        if start.startswith(LEGACY_MAGIC):
            return "torch", load_legacy(stream, path), {}
        if start[8:9] == b"{":
            return "safetensors", *_open_safetensors(path, start, size)
        if start[0] in PICKLE_STARTS:
            return "nvidia-pickle", unpickle(stream, path), {}
    raise refuse(path, f"is neither a torch archive, a pickle nor safetensors; it begins {start.hex(' ')}")


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        yield stream


def _open_safetensors(path: Path, start: bytes, size: int) -> tuple[Any, dict[str, Any]]:
    (length,) = struct.unpack("<Q", start[:8])
    if length > min(size - 8, MAX_HEADER_BYTES):
        raise refuse(path, f"has a safetensors header of {length} bytes in a file of {size}")
    tensors = read_tensors(path)
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except SafetensorError as error:
        raise refuse(path, f"is no whole safetensors file: {shown(error)}") from None
    inside = {key: text for key, text in metadata.items() if text.startswith("{")}
    return tensors, {key: _json_object(text, path) for key, text in inside.items()}


def _open_zip(path: Path, stream: mmap.mmap) -> Any:
    """Read a torch archive: check its directory, then its pickle by the machine, then load it.

    Members are stored as they are, so the whole cannot be larger than the file.
    """
    _check_directory(path, stream)
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive.infolist())
            root = _root(path, members)
            pickled = archive.read(f"{root}/data.pkl")
            # Torch's loader does not compare checksums.
            if damaged := archive.testzip():
                raise refuse(path, f"member {shown(damaged)} is damaged: its checksum differs")
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError) as error:
        raise refuse(path, f"is no whole zip archive: {shown(error)}") from None

    def check(key: str, size: int) -> None:
        held = members.get(f"{root}/data/{key}")
        if held != size:
            there = "has none" if held is None else f"holds {held}"
            raise refuse(path, f"storage {shown(key)} claims {size} bytes, the archive {there}")

    archive_machine(path, check)[0].run(io.BytesIO(pickled))
    return restricted_load(path, path)


def _check_directory(path: Path, stream: mmap.mmap) -> None:
    """Refuse a zip directory that is large in itself; its size stands in the record at the file's end."""
    tail = stream[-min(TAIL_BYTES, len(stream)) :]
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or place + 22 > len(tail):
        raise refuse(path, "is no whole zip archive: it has no directory")
    (size,) = struct.unpack_from("<I", tail, place + 12)
    large = tail.rfind(b"PK\x06\x06", 0, place)
    if large >= 0 and large + 56 <= len(tail):
        size = max(size if size < 0xFFFFFFFF else 0, struct.unpack_from("<Q", tail, large + 40)[0])
    if size > MAX_DIRECTORY_BYTES:
        raise refuse(path, f"has a zip directory of {size} bytes")


def _members(path: Path, infos: list[zipfile.ZipInfo]) -> dict[str, int]:
    """Return each member's size, refusing what torch does not write.

    Raises:
        CheckpointError: A name leaves the archive or occurs twice, a member is compressed or encrypted, there
            are too many, or together they claim to be larger than the file, as in a zip bomb.
    """
    if len(infos) > MAX_MEMBERS:
        raise refuse(path, f"has {len(infos)} members, more than {MAX_MEMBERS}")
    members: dict[str, int] = {}
    for info in infos:
        name = info.orig_filename
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or "\\" in name or ":" in name or "\0" in name:
            raise refuse(path, f"member {shown(name)} has a path that leads out of the archive")
        if name in members:
            raise refuse(path, f"member {shown(name)} occurs twice")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise refuse(path, f"member {shown(name)} is compressed, which torch never does")
        if info.flag_bits & 0x1:
            raise refuse(path, f"member {shown(name)} is encrypted")
        members[name] = info.file_size
    if (total := sum(members.values())) > path.stat().st_size:
        raise refuse(path, f"its members overlap: they claim {total} bytes")
    return members


def _root(path: Path, members: dict[str, int]) -> str:
    """Return the folder that holds `data.pkl`."""
    roots = {PurePosixPath(name).parts[0] for name in members if PurePosixPath(name).parts}
    if len(roots) != 1 or f"{(root := roots.pop())}/data.pkl" not in members:
        raise refuse(path, "is a zip archive, but torch did not write it: no data.pkl in one folder", members)
    if f"{root}/constants.pkl" in members:
        raise refuse(path, f"is a TorchScript program ({root}/constants.pkl), not a set of tensors")
    if members[f"{root}/data.pkl"] > MAX_PICKLE_BYTES:
        raise refuse(path, f"member {root}/data.pkl is larger than {MAX_PICKLE_BYTES >> 20} MiB")
    return root
