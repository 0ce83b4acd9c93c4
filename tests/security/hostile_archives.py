"""Hostile torch archives, and files that are no checkpoint, each with what its refusal must say."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
import torch

from tests.checkpoints.files import saved
from tests.security.assembler import (
    MAGIC,
    MARK,
    P2,
    blob,
    call,
    evil_legacy,
    header_patched,
    legacy,
    name,
    number,
    overlapping,
    safetensors,
    storage_id,
    tensor,
    text,
    torch_zip,
    whole,
    zipped,
)


def archive_files() -> dict[str, tuple[bytes, str]]:
    """Torch archives, zip and legacy."""
    keys = b"](" + text("0") + b"e"
    four = struct.pack("<q", 1) + bytes(4)
    good = saved({"a": torch.ones(3)})
    return {
        "zip: call": (torch_zip(call(name("os.system"), text("true"))), "os.system"),
        "zip: INST": (torch_zip(MARK + text("true") + b"ios\nsystem\n"), "INST"),
        "zip: NVIDIA's names": (
            torch_zip(call(name("torch_utils.persistence._reconstruct_persistent_obj"), b"}")),
            "torch_utils.persistence",
        ),
        "zip: nested archive": (
            torch_zip(call(name("torch.storage._load_from_bytes"), blob(evil_legacy()))),
            "_load_from_bytes",
        ),
        "zip: traversal": (zipped({"a/data.pkl": whole(b"}"), "a/../../etc/x": b""}), "a/../../etc/x"),
        "zip: absolute": (zipped({"a/data.pkl": whole(b"}"), "/etc/x": b""}), "/etc/x"),
        "zip: backslashes": (zipped({"a/data.pkl": whole(b"}"), "a\\..\\x": b""}), "leads out"),
        "zip: drive": (zipped({"a/data.pkl": whole(b"}"), "C:/x": b""}), "C:/x"),
        "zip: twice": (zipped({"a/data.pkl": whole(b"}")}, twice="a/data.pkl"), "occurs twice"),
        "zip: bomb": (
            zipped({"a/data.pkl": whole(b"}"), "a/data/0": bytes(10**7)}, zipfile.ZIP_DEFLATED),
            "compressed",
        ),
        "zip: overlapping bomb": (overlapping(), "overlap"),
        "zip: encrypted": (header_patched(torch_zip(b"}"), 8, "<H", 1), "encrypted"),
        "zip: size that is not": (header_patched(torch_zip(b"}"), 24, "<I", 1 << 31), "compressed"),
        "zip: two folders": (zipped({"a/data.pkl": whole(b"}"), "b/x": b""}), "data.pkl"),
        "zip: no pickle": (zipped({"word/document.xml": b"<x/>"}), "word/document.xml"),
        "zip: program": (torch_zip(b"}", **{"constants.pkl": whole(b")")}), "TorchScript"),
        "zip: many members": (zipped({f"a/{i:05}": b"" for i in range(20_001)}), "members"),
        "zip: huge directory": (
            torch_zip(b"}")[:-10] + struct.pack("<I", 1 << 31) + torch_zip(b"}")[-6:],
            "directory",
        ),
        "zip: storage absent": (torch_zip(tensor(storage_id(), 0, (1,), (1,))), "archive has none"),
        "zip: storage larger than its member": (
            torch_zip(tensor(storage_id(count=1 << 40), 0, (1,), (1,)), data_0=bytes(4)),
            "holds 4",
        ),
        "zip: storage of a path": (
            torch_zip(tensor(storage_id(key="../../../etc/passwd"), 0, (1,), (1,)), data_0=bytes(4)),
            "etc/passwd",
        ),
        "zip: no storage": (
            torch_zip(MARK + text("module") + name("collections.OrderedDict") + b"tQ"),
            "module",
        ),
        "zip: text as id": (torch_zip(text("stolen") + b"Q"), "stolen"),
        "zip: id without type": (torch_zip(storage_id("collections.OrderedDict")), "unknown type"),
        "zip: tensor past its storage": (
            torch_zip(tensor(storage_id(), 0, (9,), (1,)), data_0=bytes(4)),
            "exceeds its storage",
        ),
        "zip: cut short": (good[:-30], "zip"),
        "zip: cut in the middle": (good[: len(good) // 2], "zip"),
        "zip: start only": (b"PK\x03\x04" + bytes(60), "zip"),
        "legacy: call": (evil_legacy(), "os.system"),
        "legacy: BUILD": (legacy(name("collections.OrderedDict") + b"}b"), "BUILD"),
        "legacy: huge claim": (
            legacy(storage_id(count=1 << 40), keys, struct.pack("<q", 1 << 40)),
            "claims",
        ),
        "legacy: many claims": (
            legacy(b"](" + b"".join(storage_id(key=str(i), count=500) for i in range(50)) + b"e"),
            "claims",
        ),
        "legacy: view of a storage": (
            legacy(storage_id(view=MARK + text("v") + number(0) + number(9) + b"t"), keys, four),
            "view",
        ),
        "legacy: other keys": (legacy(storage_id(), b"](" + text("1") + b"e", four), "list of storages"),
        "legacy: keys twice": (
            legacy(storage_id(), b"](" + text("0") * 2 + b"e", four * 2),
            "list of storages",
        ),
        "legacy: data missing": (legacy(storage_id(), keys, four[:-1]), "ends within"),
        "legacy: another length": (
            legacy(storage_id(), keys, struct.pack("<q", 7) + bytes(4)),
            "torch cannot",
        ),
        "legacy: big-endian": (
            legacy(b"}", system=whole(b"}" + text("little_endian") + b"\x89s", P2)),
            "byte order",
        ),
        "legacy: another version": (MAGIC + whole(b"K\x01", P2) + whole(b"}", P2), "version"),
        "legacy: magic alone": (MAGIC[:-1], "pickle"),
    }


def other_files() -> dict[str, tuple[bytes, str]]:
    """Files that are no checkpoint at all, or safetensors that lie."""
    one = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    far = {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4 << 40]}}
    arrays = io.BytesIO()
    np.savez(arrays, a=np.ones(2))
    return {
        "empty": (b"", "empty"),
        "one byte": (b"\x80", "pickle"),
        "zeros": (bytes(100), "begins 00"),
        "text": (b"hello world, no checkpoint", "begins"),
        "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(50), "begins 89 50"),
        "gzip": (b"\x1f\x8b\x08" + bytes(50), "begins 1f 8b"),
        "program": (b"\x7fELF" + bytes(50), "begins 7f 45"),
        "TensorFlow's HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "begins 89 48"),
        "npz": (arrays.getvalue(), "a.npy"),
        "wrong magic": (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x20.", "no known checkpoint"),
        "safetensors: long header": (safetensors(one, length=1 << 60, data=bytes(4)), "header of"),
        "safetensors: cut short": (safetensors(one, data=bytes(2)), "safetensors"),
        "safetensors: far away": (safetensors(far, data=bytes(4)), "safetensors"),
        "safetensors: no JSON": (struct.pack("<Q", 4) + b"{nop", "safetensors"),
        "safetensors: nested": (
            struct.pack("<Q", 200_000) + b'{"a":' * 40_000,
            "safetensors",
        ),
        "safetensors: metadata": (
            safetensors({"__metadata__": {"spec": '{"a":' * 100_000}, **one}, data=bytes(4)),
            "JSON",
        ),
    }
