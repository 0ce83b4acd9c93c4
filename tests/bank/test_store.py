"""What is on disk: growth, crashes at any moment, two writers, copies, refusals."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from graftgan.bank import store as store_module
from graftgan.bank.manifest import read_manifest
from graftgan.bank.store import PENDING, Bank
from graftgan.contract import canonical_json, digest_text, write_json
from graftgan.errors import CheckpointError, ConfigError, GraftganError, MissingInput, TryAgain
from graftgan.gans.translation import TranslatorSpec
from tests.bank.banks import TINY, add_bare, bare, contents, own_rows

FILE_CALLS = {
    *("write", "flush", "fsync", "rename", "replace", "mkdir", "rmdir", "unlink", "open", "close"),
    *("chmod", "truncate", "serialize_file", "scandir"),
}
CRASHED = 77


def crash_at(number: int, work: Callable[[], None]) -> bool:
    """Do `work` in a forked process that dies before its file call of that number; tell whether it died."""
    child = os.fork()
    if not child:
        seen = 0

        def profile(_frame: object, event: str, function: object) -> None:
            nonlocal seen
            if event == "c_call" and getattr(function, "__name__", "") in FILE_CALLS:
                seen += 1
                if seen == number:
                    os._exit(CRASHED)

        try:
            sys.setprofile(profile)
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, CRASHED)
    return status == CRASHED


@pytest.fixture
def two(tmp_path: Path) -> Bank:
    bank = bare(tmp_path / "bank")
    add_bare(bank, "one", 1)
    add_bare(bank, "two", 2)
    return bank


def test_files_grow_at_their_ends_only(two: Bank) -> None:
    before = contents(two.folder)
    rows = {layer.name: two.rows(layer, 2) for layer in two.layers}
    added = own_rows(two, 3)
    add_bare(two, "three", 3)
    again = Bank(two.folder)
    for layer in again.layers:
        assert torch.equal(again.rows(layer, 2), rows[layer.name])
        assert torch.equal(again.rows(layer, 3)[layer.rows_after(2) :], added[layer.name])
    after = contents(two.folder)
    assert {name: after[name] for name in before if name.startswith("tasks/")} == {
        name: raw for name, raw in before.items() if name.startswith("tasks/")
    }
    for old, new in zip(two.tasks[:2], again.tasks[:2], strict=True):
        assert old == new
    assert again.inspect() == ()


@pytest.mark.parametrize("what", ["append", "remove"])
def test_a_crash_at_any_file_call_leaves_the_bank_before_or_after(tmp_path: Path, what: str) -> None:
    start, done = tmp_path / "start", tmp_path / "done"
    bank = bare(start)
    add_bare(bank, "one", 1)
    if what == "remove":
        add_bare(bank, "two", 2)

    def work(folder: Path) -> None:
        opened = Bank(folder)
        if what == "remove":
            opened.remove("two")
        else:
            add_bare(opened, "two", 2)

    shutil.copytree(start, done)
    work(done)
    outcomes = (contents(start), contents(done))
    seen, number, dying = set(), 1, True
    while dying:
        folder = tmp_path / str(number)
        shutil.copytree(start, folder)
        dying = crash_at(number, lambda place=folder: work(place))
        # What a reader without the right to write sees is whole as it is.
        assert len(read_manifest(folder).tasks) in (1, 2)
        opened = Bank(folder)
        assert opened.inspect() == ()
        left = {name: raw for name, raw in contents(folder).items() if not name.startswith(".")}
        assert left in outcomes
        seen.add(outcomes.index(left))
        if what == "append" and len(opened.tasks) == 1:
            add_bare(opened, "two", 2)
            assert contents(folder)["manifest.json"] == outcomes[1]["manifest.json"]
        shutil.rmtree(folder)
        number += 1
    assert seen == {0, 1}
    assert number > 30


def test_a_crash_in_the_repair_is_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = bare(tmp_path / "bank")
    add_bare(bank, "one", 1)
    whole = contents(bank.folder)
    with monkeypatch.context() as patch:
        patch.setattr(Bank, "_commit", fail)
        with pytest.raises(OSError, match="gone"):
            add_bare(bank, "two", 2)
    assert (bank.folder / PENDING).exists()
    number, dying = 1, True
    while dying:
        folder = tmp_path / f"crash{number}"
        shutil.copytree(bank.folder, folder)
        dying = crash_at(number, lambda place=folder: Bank(place) and None)
        opened = Bank(folder)
        assert opened.inspect() == ()
        assert {k: v for k, v in contents(folder).items() if not k.startswith(".")} == whole
        shutil.rmtree(folder)
        number += 1
    assert number > 10


def test_the_making_of_a_bank_may_crash_at_any_call_and_leaves_no_rubbish(tmp_path: Path) -> None:
    number, dying = 1, True
    while dying:
        folder = tmp_path / f"crash{number}"
        dying = crash_at(number, lambda place=folder: Bank.create(place, TINY) and None)
        bank = Bank(folder) if (folder / "manifest.json").exists() else Bank.create(folder, TINY)
        with bank.alone():
            assert {path.name for path in folder.iterdir()} == {"manifest.json", ".lock"}
        number += 1
    assert number > 10


def fail(*_given: object) -> None:
    raise OSError("gone")


def test_readers_go_on_while_a_writer_is_at_work(two: Bank) -> None:
    with two.alone():
        write_json(two.folder / PENDING, {"adding": "three"})
        reader = Bank(two.folder)
        assert reader.unfinished
        assert reader.inspect() == ()
        assert len(reader.rows(reader.layers[0], 2)) == reader.layers[0].rows_after(2)
    assert not Bank(two.folder).unfinished


@pytest.mark.parametrize(
    ("number", "wanted"),
    [(errno.ENOSPC, TryAgain), (errno.EDQUOT, TryAgain), (errno.EIO, OSError), (errno.EACCES, ConfigError)],
)
def test_a_lock_that_cannot_be_made_is_told_as_what_it_is(
    two: Bank, monkeypatch: pytest.MonkeyPatch, number: int, wanted: type[Exception]
) -> None:
    write_json(two.folder / PENDING, {"adding": "three"})

    def refuse(*_given: object, **_named: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store_module.FileLock, "acquire", refuse)
    with pytest.raises(wanted, match=os.strerror(number)), two.alone():
        pytest.fail("it has no lock")
    assert [task.name for task in Bank(two.folder).tasks] == ["one", "two"], "to read it needs none"


def test_two_writers_are_kept_apart(two: Bank, tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from graftgan.bank.store import Bank
from graftgan.errors import TryAgain
try:
    Bank(Path(sys.argv[1])).remove("two")
except TryAgain as error:
    print(error)
    raise SystemExit(error.exit_code)
"""
    with two.alone():
        done = subprocess.run(
            [sys.executable, "-c", script, str(two.folder)],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        with pytest.raises(TryAgain, match="another process"):
            Bank(two.folder).remove("two")
    assert done.returncode == 75, done.stderr
    assert "another process is adding to or removing from the bank" in done.stdout
    assert "wait for it to end" in done.stdout
    Bank(two.folder).remove("two")


def test_the_lock_of_a_dead_writer_is_void(two: Bank) -> None:
    child = os.fork()
    if not child:
        try:
            with Bank(two.folder).alone():
                os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    add_bare(Bank(two.folder), "three")


def test_a_writer_sees_what_another_wrote_meanwhile(two: Bank) -> None:
    other = Bank(two.folder)
    add_bare(other, "three", 3)
    with pytest.raises(ConfigError, match="has a task 'three'"):
        add_bare(two, "three", 3)
    add_bare(two, "four", 4)
    assert [task.name for task in Bank(two.folder).tasks] == ["one", "two", "three", "four"]


def test_only_the_last_task_can_be_removed(two: Bank) -> None:
    add_bare(two, "three", 3)
    before = contents(two.folder)
    with pytest.raises(ConfigError, match="two, three build on the filters of one") as caught:
        two.remove("one")
    assert caught.value.remedy == "remove three and two first, or keep one"
    with pytest.raises(ConfigError, match="three builds on the filters of two"):
        two.remove("two")
    with pytest.raises(MissingInput, match="use one of its tasks: one, two, three"):
        two.remove("four")
    assert contents(two.folder) == before
    for name in ("three", "two", "one"):
        two.remove(name)
    assert set(contents(two.folder)) == {"manifest.json"}
    add_bare(two, "one", 1)
    assert Bank(two.folder).inspect() == ()


def test_removing_and_adding_again_gives_the_same_bytes(two: Bank) -> None:
    before = contents(two.folder)
    two.remove("two")
    add_bare(two, "two", 2)
    assert contents(two.folder) == before


def test_a_copy_is_a_bank_of_its_own(two: Bank, tmp_path: Path) -> None:
    copied = tmp_path / "elsewhere" / "copy"
    shutil.copytree(two.folder, copied)
    with two.alone():
        bank = Bank(copied)
        assert bank.inspect() == ()
        add_bare(bank, "three", 3)
    assert len(Bank(two.folder).tasks) == 2


def test_a_damaged_bank_takes_no_more_tasks(two: Bank) -> None:
    path = two.filter_path("model.2")
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(CheckpointError, match=r"model\.2.* have changed since two was added"):
        add_bare(two, "three", 3)
    assert len(Bank(two.folder).tasks) == 2


def test_a_full_disk_is_said_and_the_bank_stays(two: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(two.folder)
    real = store_module.files.write_rows

    def full(path: Path, d: int, parts: object) -> None:
        if path.name.startswith("model.2"):
            raise OSError(28, "No space left on device")
        real(path, d, parts)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(store_module.files, "write_rows", full)
        with pytest.raises(OSError, match="No space"):
            add_bare(two, "three", 3)
    assert Bank(two.folder).inspect() == ()
    assert contents(two.folder) == before


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "a/b", "é", "x" * 65])
def test_names_that_are_no_file_names_are_refused(two: Bank, name: str) -> None:
    with pytest.raises(ConfigError, match="no name for a task"):
        add_bare(two, name)


def test_halves_and_values_that_are_not_finite_are_refused(two: Bank) -> None:
    facts = {
        "data_fingerprint": "",
        "config_hash": "",
        "init": "",
        "outputs": two.tasks[0].outputs,
        "scores": {},
    }
    half = {name: rows.half() for name, rows in own_rows(two, 1).items()}
    with pytest.raises(ConfigError, match=r"model\.1 has type torch\.float16"):
        two.append("three", half, {}, facts)
    with pytest.raises(ConfigError, match=r"bias/model\.1 holds values that are not finite"):
        two.append("three", own_rows(two, 1), {"bias/model.1": torch.tensor([float("nan")])}, facts)
    with pytest.raises(ConfigError, match=r"filters of model\.1 are not \[2, 27\]"):
        two.append("three", {}, {}, facts)
    with pytest.raises(ConfigError, match="score kid is not a finite"):
        two.append("three", own_rows(two, 1), {}, {**facts, "scores": {"kid": float("nan")}})
    assert len(two.tasks) == 2


def test_scores_can_be_noted_later(two: Bank) -> None:
    head = two.head
    two.note_scores("one", {"kid": 0.5, "l1": 1})
    two.note_scores("one", {"kid": 0.25})
    again = Bank(two.folder)
    assert again.task("one").scores == {"kid": 0.25, "l1": 1.0}
    assert again.head == head
    with pytest.raises(ConfigError, match="not a finite number"):
        two.note_scores("one", {"kid": float("inf")})


def test_a_new_bank_needs_an_empty_folder_and_a_generator(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="not an empty folder"):
        Bank.create(tmp_path / "full", TINY)
    with pytest.raises(ConfigError, match="not discriminators"):
        Bank.create(tmp_path / "new", TranslatorSpec(kind="patchgan"))
    with pytest.raises(ConfigError, match="lambda of"):
        Bank.create(tmp_path / "new", TINY, 2.0)
    assert not (tmp_path / "new").exists()
    bank = Bank.create(tmp_path / "empty", TINY, {"default": 0.5, "model.1": 1})
    assert bank.manifest.share == {"default": 0.5, "model.1": 1.0}
    assert Bank(tmp_path / "empty").layers == bank.layers
    with pytest.raises(MissingInput, match="no task bank"):
        Bank(tmp_path)


def rewritten(folder: Path, change: Callable[[dict[str, object]], object], sealed: bool = True) -> None:
    values = json.loads((folder / "manifest.json").read_text())
    change(values)
    del values["sha256"]
    write_json(
        folder / "manifest.json", {**values, "sha256": digest_text(canonical_json(values)) if sealed else ""}
    )


def test_a_background_is_written_down_and_a_manifest_without_one_is_read(two: Bank) -> None:
    values = json.loads((two.folder / "manifest.json").read_text())
    assert all("background" not in task for task in values["tasks"])
    assert [task.background for task in two.tasks] == [None, None]
    rewritten(two.folder, lambda m: m["tasks"][1].update(background="#204060"))  # type: ignore[index]
    assert [task.background for task in Bank(two.folder).tasks] == [None, "#204060"]
    assert Bank(two.folder).head == two.head


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda m: m.update(format=2), "format 2, and this version reads 1"),
        (lambda m: m.update(extra=1), "unknown key extra"),
        (lambda m: m["tasks"][0].update(extra=1), r"unknown key tasks\.0\.extra"),
        (lambda m: m.pop("lambda"), "lambda: Field required"),
        (lambda m: m.update(order="u_last"), "order"),
        (lambda m: m["layers"][0].update(n_u=3), "contradicts"),
        (lambda m: m["layers"][0].update(name="../../x"), "name"),
        (lambda m: m["tasks"][0].update(background="white"), r"tasks\.0\.background"),
        (lambda m: m["tasks"].pop(0), "contradicts"),
        (lambda m: m["tasks"][1]["prefix_cols"].update({"model.1": 5}), "contradicts"),
        (lambda m: m.update(arch="unet_128"), "arch"),
        (lambda m: m["spec"].update(extra=1), "unknown key in the translator spec"),
    ],
)
def test_foreign_manifests_are_refused_with_a_remedy(
    two: Bank, change: Callable[[dict[str, object]], object], word: str
) -> None:
    rewritten(two.folder, change)
    with pytest.raises(CheckpointError, match=word) as caught:
        Bank(two.folder)
    assert "manifest.json" in caught.value.message and "copy" in caught.value.remedy


def test_each_changed_byte_of_the_manifest_is_found(two: Bank) -> None:
    path = two.folder / "manifest.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 13):
        for other in (whole[place] ^ 1, 0x20, 0xFF):
            if other == whole[place]:
                continue
            path.write_bytes(whole[:place] + bytes([other]) + whole[place + 1 :])
            with pytest.raises(GraftganError, match=r"manifest\.json"):
                Bank(two.folder)
    for cut in (0, 1, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match=r"manifest\.json"):
            Bank(two.folder)
    path.write_bytes(whole + b"\n")
    with pytest.raises(CheckpointError, match="as it was written"):
        Bank(two.folder)
    path.write_text("[1, 2]")
    with pytest.raises(CheckpointError, match="not JSON of a bank"):
        Bank(two.folder)
