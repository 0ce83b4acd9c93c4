from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from graftgan import contract
from graftgan.errors import TryAgain
from graftgan.training.state import (
    CHECKSUM,
    STATE,
    StateStore,
    read_state,
    restore_rng,
    rng_state,
    write_state,
)


def same(a: Any, b: Any) -> bool:
    """Equal in type and bits; tuples count as lists."""
    if isinstance(a, torch.Tensor):
        alike = a.dtype == b.dtype and a.shape == b.shape
        return alike and a.reshape(-1).view(torch.uint8).equal(b.reshape(-1).view(torch.uint8))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and repr(a) == repr(b)


def test_nested_tensors_and_plain_values_come_back_bit_for_bit(tmp_path: Path) -> None:
    state = {
        "float": torch.randn(3, 4),
        "bf16": torch.randn(5).bfloat16(),
        "half": torch.randn(2, 2).half(),
        "double": torch.tensor(1 / 3, dtype=torch.float64),
        "bytes": torch.arange(200, dtype=torch.uint8),
        "flags": torch.tensor([True, False]),
        "long": torch.tensor(2**62),
        "empty": torch.zeros(0, 7),
        "special": torch.tensor([math.nan, math.inf, -math.inf, -0.0]),
        "layout": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "adam": {0: {"step": torch.tensor(3.0)}, 17: {"exp_avg": torch.randn(2)}},
        "groups": [{"lr": 0.0015, "params": [0, 17], "fused": True, "decay": None, "betas": (0.0, 0.99)}],
        "third": 1 / 3,
        "tiny": 5e-324,
        "minus_zero": -0.0,
        "odd": [math.nan, math.inf, -math.inf],
        "nothing": {},
        "text": "Ünïcødé / $tensor",
    }
    write_state(tmp_path / "s", state)
    assert same(state, read_state(tmp_path / "s"))


def test_integer_and_text_keys_stay_apart(tmp_path: Path) -> None:
    one, text = torch.tensor([1.0]), torch.tensor([2.0])
    write_state(tmp_path / "s", {"m": {1: one, "1": text}})
    read = read_state(tmp_path / "s")["m"]
    assert list(read) == [1, "1"]
    assert read[1].item() == 1.0
    assert read["1"].item() == 2.0


def test_keys_with_slashes_do_not_hide_other_tensors(tmp_path: Path) -> None:
    write_state(tmp_path / "s", {"a/b": torch.tensor([1.0]), "a": {"b": torch.tensor([2.0])}})
    read = read_state(tmp_path / "s")
    assert (read["a/b"].item(), read["a"]["b"].item()) == (1.0, 2.0)


def test_keys_that_look_like_the_format_itself_are_harmless(tmp_path: Path) -> None:
    state = {"$tensor": 1, "$map": {"$float": "x"}, "$float": torch.ones(1)}
    write_state(tmp_path / "s", state)
    assert same(state, read_state(tmp_path / "s"))


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.builds(
    torch.tensor, st.lists(st.floats(width=32), max_size=4)
)  # fmt: skip
KEYS = st.integers() | st.text(max_size=4)
TREES = st.recursive(
    LEAVES, lambda t: st.lists(t, max_size=3) | st.dictionaries(KEYS, t, max_size=3), max_leaves=8
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=st.dictionaries(KEYS, TREES, max_size=4))
def test_any_nested_state_comes_back(tmp_path: Path, state: dict[Any, Any]) -> None:
    write_state(tmp_path / "s", state)
    assert same(state, read_state(tmp_path / "s"))


def test_later_changes_do_not_reach_what_was_read(tmp_path: Path) -> None:
    tensor = torch.zeros(3)
    write_state(tmp_path / "s", {"t": tensor})
    tensor += 1
    assert read_state(tmp_path / "s")["t"].tolist() == [0, 0, 0]


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def remove(file: Path) -> None:
    file.unlink()


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    store = StateStore(tmp_path / "run", keep=2)
    for images in (100, 200):
        store.save(images, {"seen": images, "w": torch.full((50,), float(images))})
    return store


@pytest.mark.parametrize("name", [STATE, CHECKSUM])
@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, empty, remove])
def test_damage_falls_back_to_the_state_before_and_is_logged(
    store: StateStore, damage: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    newest = store.names()[0]
    damage(newest / name)
    with caplog.at_level(logging.WARNING, "graftgan"), listening(caplog):
        latest = store.latest()
    assert latest is not None
    assert latest["seen"] == 100
    assert latest["w"].eq(100).all()
    assert str(newest) in caplog.text
    assert "damaged" in caplog.text


@contextmanager
def listening(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The command line cuts our logger off from the root; a test may come after one that called it."""
    logger = logging.getLogger("graftgan")
    logger.addHandler(caplog.handler)
    try:
        yield
    finally:
        logger.removeHandler(caplog.handler)


def test_a_state_whose_checksum_fits_but_is_no_state_is_damaged_too(store: StateStore) -> None:
    newest = store.names()[0]
    (newest / STATE).write_bytes(b"not a safetensors file")
    (newest / CHECKSUM).write_text(contract.digest_file(newest / STATE))
    with pytest.raises(ValueError):
        read_state(newest)
    assert (store.latest() or {})["seen"] == 100


def test_nothing_is_found_where_all_are_damaged_or_none_was_saved(store: StateStore, tmp_path: Path) -> None:
    for folder in store.names():
        empty(folder / STATE)
    assert store.latest() is None
    assert StateStore(tmp_path / "nowhere").latest() is None


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_few_are_kept(tmp_path: Path, keep: int) -> None:
    store = StateStore(tmp_path, keep)
    for images in (0, 900, 1000, 20_000):
        store.save(images, {"seen": images})
    assert [read_state(p)["seen"] for p in store.names()] == [20_000, 1000, 900, 0][:keep]


def test_a_damaged_newer_state_does_not_push_out_what_is_saved_next(tmp_path: Path) -> None:
    store = StateStore(tmp_path, keep=1)
    store.save(300, {"seen": 300})
    empty(store.names()[0] / STATE)
    store.save(200, {"seen": 200})
    assert [p.name for p in store.names()] == ["images-000000000200"]
    assert store.latest() == {"seen": 200}


def test_saving_twice_at_one_point_replaces(store: StateStore) -> None:
    store.save(200, {"seen": "again"})
    assert (store.latest() or {})["seen"] == "again"
    assert len(store.names()) == 2


def test_a_failure_before_the_rename_leaves_the_older_states(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*paths: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(contract, "_replace", fail)
    for images in (200, 300):
        with pytest.raises(KeyboardInterrupt):
            store.save(images, {"seen": -1})
    monkeypatch.undo()
    assert (store.latest() or {})["seen"] == 200
    assert sorted(p.name for p in store.folder.iterdir()) == ["images-000000000100", "images-000000000200"]


def test_what_a_killed_save_left_behind_is_ignored_and_cleared_away(store: StateStore) -> None:
    left = store.folder / ".images-000000000300.x7b2" / "images-000000000300"
    left.mkdir(parents=True)
    (left / STATE).write_bytes(b"half")
    assert (store.latest() or {})["seen"] == 200
    store.save(400, {"seen": 400})
    assert not left.parent.exists()


def write_to_a_full_disk(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    with Path("/dev/full").open("wb", buffering=0) as file:
        file.write(b"x")


def fail_as_safetensors_does(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("full", [write_to_a_full_disk, fail_as_safetensors_does])
def test_a_full_disk_asks_to_try_again_and_leaves_the_older_states(
    store: StateStore, monkeypatch: pytest.MonkeyPatch, full: Any
) -> None:
    monkeypatch.setattr("graftgan.training.state.save_file", full)
    with pytest.raises(TryAgain, match="no space left"):
        store.save(300, {"w": torch.zeros(10_000)})
    monkeypatch.undo()
    assert (store.latest() or {})["seen"] == 200
    assert len(list(store.folder.iterdir())) == 2


def test_a_state_that_a_kill_took_away_to_replace_it_is_there_again(store: StateStore) -> None:
    newest = store.names()[0]
    wanted = store.latest()
    holder = store.folder / f".{newest.name}.abcd_123"
    (holder / newest.name).mkdir(parents=True)
    newest.rename(holder / contract.MOVED)
    found = store.latest()
    assert found is not None and wanted is not None
    assert found.keys() == wanted.keys()
    assert store.names()[0] == newest
    assert not (holder / contract.MOVED).exists()


def test_clear_removes_everything(store: StateStore) -> None:
    store.clear()
    assert not store.folder.exists()
    store.clear()


def test_the_global_random_state_is_put_back(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    write_state(tmp_path / "s", {"rng": rng_state(cpu)})
    first = torch.randn(5)
    torch.manual_seed(123)
    restore_rng(read_state(tmp_path / "s")["rng"], cpu)
    assert torch.equal(torch.randn(5), first)


def test_a_state_is_not_begun_where_there_is_no_room_for_it(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {"w": torch.zeros(1000)}
    free = contract.SPARE_BYTES + state["w"].nbytes

    class Usage:
        def __init__(self, free: int) -> None:
            self.free = free

    monkeypatch.setattr(contract.shutil, "disk_usage", lambda place: Usage(free - 1))
    with pytest.raises(TryAgain, match="a saved training state needs") as caught:
        store.save(300, state)
    assert caught.value.exit_code == 75
    assert str(store.folder) in caught.value.message
    assert (store.latest() or {})["seen"] == 200
    assert len(list(store.folder.iterdir())) == 2
    monkeypatch.setattr(contract.shutil, "disk_usage", lambda place: Usage(free))
    store.save(300, state)
    assert len(store.names()) == 2


def test_a_file_system_that_does_not_tell_its_free_space_is_written_to(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(place: Path) -> None:
        raise OSError("not supported")

    monkeypatch.setattr(contract.shutil, "disk_usage", refuse)
    store.save(300, {"seen": 300})
    assert (store.latest() or {})["seen"] == 300
