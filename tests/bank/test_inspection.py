"""Every changed byte is found and named by file, layer and task."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from graftgan.bank import files
from graftgan.bank.inspection import ALL, HEADER, layer_of
from graftgan.bank.store import Bank
from tests.bank.banks import add_bare, bare, contents


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    made = bare(tmp_path / "bank")
    for number, name in enumerate(("one", "two", "three")):
        add_bare(made, name, number)
    return made


def flip(path: Path, place: int, whole: bytes, bit: int = 4) -> None:
    path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])


def test_each_byte_of_the_filters_is_named_with_the_task_that_made_it(bank: Bank) -> None:
    for layer in bank.layers:
        path = bank.filter_path(layer.name)
        whole, start = path.read_bytes(), len(files.header(layer.rows_after(3), layer.d))
        for place in range(len(whole)):
            flip(path, place, whole)
            found = bank.inspect()
            assert found, place
            assert {f.file for f in found} == {f"filters/{layer.name}.safetensors"}
            assert {f.layer for f in found} == {layer.name}
            row = (place - start) // (layer.d * files.VALUE_BYTES)
            owner = next(i for i in (1, 2, 3) if row < layer.rows_after(i))
            assert {f.task for f in found} == {ALL if place < start else bank.tasks[owner - 1].name}
        path.write_bytes(whole)
    assert bank.inspect() == ()


def test_each_byte_of_a_tasks_file_is_named_with_its_layer(bank: Bank) -> None:
    task = bank.tasks[1]
    path = bank.folder / task.file
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    layers = set()
    for place in range(len(whole)):
        flip(path, place, whole)
        found = bank.inspect()
        assert found, place
        assert {(f.file, f.task) for f in found} == {(task.file, "two")}
        if place >= start:
            layers |= {f.layer for f in found}
    assert layers == {"model.1"}
    path.write_bytes(whole)
    assert bank.inspect() == ()


def test_cut_long_and_missing_files_are_found(bank: Bank) -> None:
    for name, whole in contents(bank.folder).items():
        if name == "manifest.json":
            continue
        path = bank.folder / name
        for changed in (whole[:-1], whole + b"\0", b"", whole[: len(whole) // 2]):
            path.write_bytes(changed)
            assert {f.file for f in bank.inspect()} == {name}
        path.unlink()
        (only,) = bank.inspect()
        assert only.file == name and "cannot be read" in only.what
        path.write_bytes(whole)


def test_swapped_files_and_other_tensors_are_found(bank: Bank) -> None:
    one, two = (bank.folder / task.file for task in bank.tasks[:2])
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    assert {(f.task, f.layer) for f in bank.inspect()} == {("one", "model.1")}
    one.write_bytes(first)
    save_file({**load_file(two), "extra": load_file(two)["A/model.1"].clone()}, two)
    assert [str(f) for f in bank.inspect()] == [
        f"{bank.tasks[1].file}: layer extra, task two: the tensor extra has changed"
    ]


def test_filters_beyond_the_manifest_are_found_unless_a_writer_is_at_work(bank: Bank) -> None:
    layer = bank.layers[0]
    path = bank.filter_path(layer.name)
    rows = files.read_rows(path, layer.d, layer.rows_after(3))
    files.write_rows(path, layer.d, (rows, rows))
    (only,) = bank.inspect()
    assert (only.layer, only.task) == (layer.name, ALL)
    (bank.folder / "pending.json").write_text("{}")
    assert bank.inspect() == ()


def test_a_bank_without_tasks_is_whole(tmp_path: Path) -> None:
    assert bare(tmp_path / "new").inspect() == ()


def test_layers_of_tensors() -> None:
    assert [layer_of(n) for n in ("A/model.1", "bias/m.2", "norm/m.3/weight", "outputs")] == [
        "model.1",
        "m.2",
        "m.3",
        "outputs",
    ]
    assert HEADER not in (layer_of("A/x"), ALL)
