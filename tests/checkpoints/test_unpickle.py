from __future__ import annotations

import argparse
import collections
import io
import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from graftgan.checkpoints.nesting import MAX_NESTING, check_nesting
from graftgan.checkpoints.pickle_machine import CONSTANTS, LITERALS, REFUSED_OPCODES, Machine, shown
from graftgan.checkpoints.unpickle import (
    ALLOWED,
    LEGACY_MAGIC,
    NumpyType,
    Stub,
    load_legacy,
    rebuild_tensor,
    rows,
    unpickle,
)
from graftgan.errors import CheckpointError
from tests.checkpoints.files import Persistent, nvidia_modules, saved

FILE = Path("some/file.pkl")


def read(data: bytes) -> Any:
    return unpickle(io.BytesIO(data), FILE)


PLAIN: list[Any] = [
    None, True, False, 0, 1, -1, 255, 256, 65536, -(2**31), 2**40, -(2**70), 1.5, float("inf"), "", "text",
    "\u2603", b"", b"bytes", bytearray(b"xyz"), (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [1],
    [1, [2, [3]]], {}, {"a": 1}, {1: {"b": [None]}}, set(), {1, 2}, frozenset({"a"}), "x" * 300, b"y" * 300,
    complex(1, 2), list(range(1500)), {str(i): i for i in range(1500)}, OrderedDict(b=1, a=2),
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_read_as_python_reads_them(protocol: int) -> None:
    for value in PLAIN:
        found = read(pickle.dumps(value, protocol))
        assert found == value
        assert type(found) is type(value)
    assert read(pickle.dumps(PLAIN, protocol)) == PLAIN


def test_order_of_a_mapping_is_kept() -> None:
    assert list(read(pickle.dumps(OrderedDict(b=1, a=2), 2)).items()) == [("b", 1), ("a", 2)]


def test_shared_values_stay_shared() -> None:
    shared = [1, 2]
    first, second = read(pickle.dumps((shared, shared), 4))
    assert first is second


@pytest.mark.parametrize("protocol", [0, 2, 3, 4])
def test_tensors_are_read_bit_by_bit(protocol: int) -> None:
    rng = torch.Generator().manual_seed(0)
    wide = torch.randn(4, 6, generator=rng)
    values = {
        "plain": wide,
        "half": wide.half(),
        "transposed": wide.t(),
        "slice": wide[1:, ::2],
        "scalar": torch.tensor(3.0),
        "none": torch.empty(0, 5),
        "whole": torch.arange(5),
        "truth": torch.tensor([True, False]),
        "nan": torch.tensor([float("nan"), -0.0]),
        "parameter": nn.Parameter(wide.clone()),
    }
    found = read(pickle.dumps(values, protocol))
    for name, tensor in values.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert found[name].contiguous().numpy().tobytes() == tensor.detach().contiguous().numpy().tobytes()


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_numpy_values_become_numbers_and_arrays(protocol: int) -> None:
    values = {"f": np.float64(1.5), "i": np.int32(-3), "b": np.bool_(True), "h": np.float16(0.25)}
    assert read(pickle.dumps(values, protocol)) == {"f": 1.5, "i": -3, "b": True, "h": 0.25}
    table = np.arange(6.0).reshape(2, 3)
    for array in (table, table.T, np.zeros((0, 2)), np.arange(3, dtype=">i4"), np.array(7)):
        found = read(pickle.dumps(array, protocol))
        assert found.dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found, array)


def test_numpy_types_keep_their_byte_order() -> None:
    assert read(pickle.dumps(np.dtype(">f4"), 2)).value == np.dtype(">f4")
    assert read(pickle.dumps(np.dtype("u1"), 2)).value == np.dtype("u1")
    with pytest.raises(TypeError, match="more than numbers"):
        NumpyType("U3")


def test_a_persistent_object_becomes_a_stub() -> None:
    with nvidia_modules():
        top = Persistent("Generator", {"z_dim": 4, "mapping_kwargs": {"num_layers": 2}})
        top.put("mapping.fc0.weight", torch.ones(2, 2), buffer=False)
        data = pickle.dumps({"G_ema": top}, 4)
    stub = read(data)["G_ema"]
    assert isinstance(stub, Stub)
    assert (stub.class_name, stub.module) == ("Generator", "torch_utils.persistence")
    assert stub.state["_init_kwargs"] == {"z_dim": 4, "mapping_kwargs": {"num_layers": 2}}
    assert type(stub.state["_init_kwargs"]) is dict
    assert "Generator" in repr(stub)
    inner = stub.state["_modules"]["mapping"].state["_modules"]["fc0"]
    assert torch.equal(inner.state["_parameters"]["weight"], torch.ones(2, 2))


def test_attributes_of_a_mapping_are_dropped() -> None:
    state = nn.Linear(2, 2).state_dict()
    assert hasattr(state, "_metadata")
    found = read(pickle.dumps(state, 2))
    assert not hasattr(found, "_metadata")
    assert torch.equal(found["weight"], state["weight"])


FOREIGN: list[Any] = [
    collections.Counter("aab"), collections.defaultdict(list), argparse.Namespace(a=1), Path("x"), nn.ReLU(),
    torch.float32, torch.Size([1]), ValueError("x"), print, np.random.default_rng(0), np.array(["x"]),
    np.array([None]), np.dtype([("a", "f4")]),
]  # fmt: skip


@pytest.mark.parametrize("value", FOREIGN, ids=lambda value: type(value).__name__)
def test_what_the_table_lacks_is_refused(value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"some/file\.pkl: "):
        read(pickle.dumps(value, 4))


def test_every_row_of_the_table_has_a_reason() -> None:
    for (module, name), row in ALLOWED.items():
        assert module and name
        assert len(row.why) > 20
        assert row.where in ("pickle", "archive", "both")
        assert row.lent <= (row.where != "pickle")


def test_no_row_calls_what_it_names() -> None:
    own = {"graftgan.checkpoints.unpickle", "functools"}
    assert {row.make.__module__ for row in ALLOWED.values()} <= own
    assert ("argparse", "Namespace") not in rows("pickle")
    assert ("torch.storage", "_load_from_bytes") not in rows("archive")


def test_every_opcode_is_known_or_refused() -> None:
    for opcode in pickletools.opcodes:
        handled = (
            opcode.name in LITERALS or opcode.name in CONSTANTS or hasattr(Machine, f"_{opcode.name.lower()}")
        )
        assert handled or opcode.name in REFUSED_OPCODES, opcode.name
        if opcode.name in REFUSED_OPCODES:
            assert opcode.name == "BINPERSID" or not handled, opcode.name


def test_a_machine_reads_one_pickle_after_another() -> None:
    stream = io.BytesIO(pickle.dumps([1], 2) + pickle.dumps("b", 4) + b"rest")
    machine = Machine(FILE, {})
    assert machine.run(stream) == [1]
    assert machine.run(stream) == "b"
    assert stream.read() == b"rest"


@pytest.mark.parametrize("extra", [{}, {"_use_new_zipfile_serialization": False}])
def test_the_legacy_magic_is_what_torch_writes(extra: dict[str, bool]) -> None:
    out = io.BytesIO()
    torch.save({}, out, **extra)
    assert out.getvalue().startswith(LEGACY_MAGIC) is bool(extra)


def test_a_legacy_archive_is_read_from_where_the_stream_stands() -> None:
    tree = {
        "a": torch.arange(3.0),
        "b": [torch.ones(2, dtype=torch.int64)],
        "args": argparse.Namespace(size=4),
    }
    stream = io.BytesIO(b"before" + saved(tree, legacy=True))
    stream.seek(6)
    found = load_legacy(stream, FILE)
    assert torch.equal(found["a"], tree["a"]) and torch.equal(found["b"][0], tree["b"][0])
    assert isinstance(found["args"], Stub) and found["args"].state == {"size": 4}


def storage(count: int) -> torch.TypedStorage:
    blank = torch.UntypedStorage(count * 4, device="meta")
    return torch.TypedStorage(wrap_storage=blank, dtype=torch.float32, _internal=True)


@pytest.mark.parametrize(
    ("offset", "size", "stride", "fits"),
    [
        (0, (2, 3), (3, 1), True),
        (0, (3, 2), (1, 3), True),
        (5, (1,), (1,), True),
        (0, (), (), True),
        (0, (0, 7), (1, 1), True),
        (6, (0,), (1,), True),
        (0, (1,), (6,), True),
        (6, (1,), (1,), False),
        (0, (7,), (1,), False),
        (1, (2, 3), (3, 1), False),
        (0, (2,), (6,), False),
        (0, (7,), (0,), False),
        (0, (2,), (-1,), False),
        (0, (-2,), (1,), False),
        (0, (2, 3), (1,), False),
        (0, (1,) * 9, (1,) * 9, False),
        (0, (True,), (1,), False),
        (0, (1 << 62, 0), (1, 1), False),
    ],
)
def test_a_tensor_must_lie_within_its_storage(
    offset: int, size: tuple[int, ...], stride: tuple[int, ...], fits: bool
) -> None:
    if fits:
        assert rebuild_tensor(storage(6), offset, size, stride).shape == size
    else:
        with pytest.raises(ValueError, match="tensor of"):
            rebuild_tensor(storage(6), offset, size, stride)


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = ([value], (value,), {"k": value})[level % 3]
    return value


def test_nesting_is_limited() -> None:
    check_nesting(nested(MAX_NESTING - 1), FILE)
    with pytest.raises(CheckpointError, match="nested deeper"):
        check_nesting(nested(MAX_NESTING + 1), FILE)


def test_nesting_counts_through_what_was_seen_before() -> None:
    low = nested(60)
    check_nesting([low, low], FILE)
    with pytest.raises(CheckpointError, match="nested deeper"):
        check_nesting([low, nested_around(low, 60)], FILE)


def nested_around(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = [value]
    return value


def test_a_loop_through_a_stub_is_found() -> None:
    state: dict[str, Any] = {}
    state["self"] = [Stub("Generator", state, "x")]
    with pytest.raises(CheckpointError, match="contains itself"):
        check_nesting(state, FILE)


def test_texts_from_files_are_shown_on_one_short_line() -> None:
    assert shown("a\nb\x1b[0m") == r"a\nb\x1b[0m"
    assert len(shown("x" * 1000)) < 130
    assert shown("\ud800") == r"\ud800"
