"""The files of filters: one safetensors tensor [rows, d] a layer, float32, written so that rows only come on.

The header is the shortest one, padded with blanks to a multiple of 8 bytes, so each byte of a whole file is
known from the number of rows and the rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graftgan.contract import atomic_path
from graftgan.errors import CheckpointError, MissingInput

TENSOR = "filters"
VALUE_BYTES = 4
LONGEST_HEADER = 4096
REMEDY = "bring the file back from a copy of the bank; `graftgan tasks verify` names what is damaged"


def header(rows: int, d: int) -> bytes:
    """Return the first bytes of a file of `rows` filters of `d` values: 8 of length, then JSON."""
    entry = {"dtype": "F32", "shape": [rows, d], "data_offsets": [0, rows * d * VALUE_BYTES]}
    text = json.dumps({TENSOR: entry}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def row_bytes(filters: Tensor) -> bytes:
    """Return filters as the little-endian float32 bytes of a file."""
    return filters.detach().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes()


def split(raw: bytes, d: int) -> tuple[int, bytes] | None:
    """Return the number of rows and the rows of a file's bytes, or None if its header or length is wrong."""
    length = int.from_bytes(raw[:8], "little")
    if length > LONGEST_HEADER:
        return None
    body = raw[8 + length :]
    rows, rest = divmod(len(body), d * VALUE_BYTES)
    if rest or raw[: 8 + length] != header(rows, d):
        return None
    return rows, body


def read_rows(path: Path, d: int, rows: int) -> bytes:
    """Return the bytes of the first rows of a file.

    Raises:
        MissingInput: There is no such file.
        CheckpointError: Its header is damaged, or it has fewer rows.
    """
    try:
        found = split(path.read_bytes(), d)
    except FileNotFoundError:
        raise MissingInput(f"{path} does not exist", REMEDY) from None
    if found is None:
        raise CheckpointError(f"{path} is not a whole file of filters", REMEDY)
    if found[0] < rows:
        raise CheckpointError(f"{path} has {found[0]} filters, and the bank counts {rows}", REMEDY)
    return found[1][: rows * d * VALUE_BYTES]


def to_tensor(raw: bytes, d: int) -> Tensor:
    """Return the bytes of rows as a tensor [rows, d] of its own memory."""
    return torch.from_numpy(np.frombuffer(raw, "<f4").astype(np.float32).reshape(-1, d))


def write_rows(path: Path, d: int, parts: Iterable[bytes]) -> None:
    """Put a file with the rows of all parts in place, whole; a reader sees the earlier file or this one."""
    body = b"".join(parts)
    with atomic_path(path) as temporary:
        temporary.write_bytes(header(len(body) // (d * VALUE_BYTES), d) + body)


def sha256(raw: bytes) -> str:
    """Return the digest of bytes as 64 hex digits."""
    return hashlib.sha256(raw).hexdigest()


def tensor_sha256(tensor: Tensor) -> str:
    """Return the digest of a tensor's type, shape and values."""
    values = tensor.detach().cpu().contiguous()
    head = f"{values.dtype}{list(values.shape)}".encode()
    return sha256(head + values.numpy().tobytes())
