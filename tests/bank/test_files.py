"""Filter files are safetensors of which every byte is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from graftgan.bank import files
from graftgan.errors import CheckpointError, MissingInput


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 30), d=st.integers(1, 30), cut=st.integers(0, 30))
def test_written_rows_are_read_back_and_by_safetensors_too(
    tmp_path_factory: pytest.TempPathFactory, rows: int, d: int, cut: int
) -> None:
    path = tmp_path_factory.mktemp("rows") / "x.safetensors"
    filters = torch.randn(rows, d)
    raw = files.row_bytes(filters)
    middle = min(cut, rows) * d * files.VALUE_BYTES
    files.write_rows(path, d, (raw[:middle], raw[middle:]))
    assert torch.equal(load_file(path)[files.TENSOR], filters)
    assert torch.equal(files.to_tensor(files.read_rows(path, d, rows), d), filters)
    assert files.read_rows(path, d, min(cut, rows)) == raw[:middle]


def test_more_rows_leave_the_bytes_of_the_first_ones(tmp_path: Path) -> None:
    path, first, more = tmp_path / "x.safetensors", torch.randn(3, 4), torch.randn(100, 4)
    files.write_rows(path, 4, (files.row_bytes(first),))
    before = files.read_rows(path, 4, 3)
    files.write_rows(path, 4, (before, files.row_bytes(more)))
    assert files.read_rows(path, 4, 3) == before
    assert torch.equal(load_file(path)[files.TENSOR], torch.cat([first, more]))


def test_each_changed_byte_of_the_header_and_each_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    files.write_rows(path, 4, (files.row_bytes(torch.randn(3, 4)),))
    whole = path.read_bytes()
    for place in range(len(files.header(3, 4))):
        changed = bytearray(whole)
        changed[place] ^= 0x10
        path.write_bytes(bytes(changed))
        with pytest.raises(CheckpointError, match="not a whole file"):
            files.read_rows(path, 4, 1)
    for length in (0, 5, len(whole) - 1, len(whole) - 16):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            files.read_rows(path, 4, 1)


def test_missing_files_and_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(MissingInput, match=r"x\.safetensors"):
        files.read_rows(path, 4, 1)
    files.write_rows(path, 4, (files.row_bytes(torch.randn(3, 4)),))
    with pytest.raises(CheckpointError, match="has 3 filters, and the bank counts 5"):
        files.read_rows(path, 4, 5)


def test_a_tensors_digest_tells_type_shape_and_values() -> None:
    one = torch.arange(4.0)
    others = [one.reshape(2, 2), one.int(), one + 1e-6 * torch.tensor([0.0, 1, 0, 0])]
    assert files.tensor_sha256(one) == files.tensor_sha256(one.clone())
    assert len({files.tensor_sha256(t) for t in [one, *others]}) == 4
