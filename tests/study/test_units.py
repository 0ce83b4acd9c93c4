from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from graftgan.context import Context
from graftgan.contract import read_json
from graftgan.errors import MissingInput, TryAgain
from graftgan.places import code_digest
from graftgan.study import units
from graftgan.study.units import CODE, Record, alone_in, finish, finish_all, made_by, take_up, write_record


@dataclass(frozen=True)
class Counted:
    """A unit that saves a state on the way, and counts how often it was done."""

    file: Path
    done: list[str] = field(default_factory=list)

    def state(self, ctx: Context) -> Path:
        return ctx.state / self.file.stem

    def work(self, ctx: Context) -> Record:
        self.state(ctx).mkdir(parents=True, exist_ok=True)
        (self.state(ctx) / "saved").write_text("s")
        self.done.append(self.file.stem)
        return {"name": self.file.stem, "times": len(self.done)}


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    logging.getLogger("graftgan").addHandler(caplog.handler)
    yield caplog
    logging.getLogger("graftgan").removeHandler(caplog.handler)


def around(place: Path, resume: str = "auto") -> Context:
    return Context(place / "states", place / "cache", resume=resume)


def pair(place: Path) -> list[Counted]:
    return [Counted(place / "units" / f"{name}.json") for name in ("a", "b")]


def test_a_record_names_the_code_that_made_it_and_the_state_goes(tmp_path: Path) -> None:
    (first, _), ctx = pair(tmp_path), around(tmp_path)
    assert finish(first, ctx) == {"name": "a", "times": 1, CODE: code_digest()}
    assert not first.state(ctx).exists()
    assert finish(first, ctx)["times"] == 1, "it is done once"


def test_the_state_stays_until_the_record_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (first, _), ctx = pair(tmp_path), around(tmp_path)

    def dies(path: Path, record: Record) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(units, "write_record", dies)
        with pytest.raises(KeyboardInterrupt):
            finish(first, ctx)
    assert (first.state(ctx) / "saved").is_file() and not first.file.exists()
    finish(first, ctx)
    assert not first.state(ctx).exists()


def test_a_state_that_a_kill_left_behind_its_record_goes_with_the_next_start(tmp_path: Path) -> None:
    both, ctx = pair(tmp_path), around(tmp_path)
    finish_all(both, ctx, 1, 1)
    both[0].state(ctx).mkdir(parents=True)
    finish_all(both, ctx, 1, 1)
    assert not both[0].state(ctx).exists() and both[0].done == ["a"]


@pytest.mark.parametrize("raw", [b"", b'{"name": "a", ', b"[1]", b"\xff\xfe"])
def test_a_damaged_record_is_named_and_its_unit_done_again(
    tmp_path: Path, told: pytest.LogCaptureFixture, raw: bytes
) -> None:
    both, ctx = pair(tmp_path), around(tmp_path)
    finish_all(both, ctx, 1, 1)
    both[0].file.write_bytes(raw)
    with pytest.raises(MissingInput, match=r"a\.json"):
        take_up(both, tmp_path, around(tmp_path, "must"))
    take_up(both, tmp_path, ctx)
    assert "a.json" in told.text and "its unit is done again" in told.text
    assert [record["name"] for record in finish_all(both, ctx, 1, 1)] == ["a", "b"]
    assert both[0].done == ["a", "a"] and both[1].done == ["b"]


KILLED = """
import os, sys
from pathlib import Path
from graftgan.contract import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os._exit(9)
"""


@pytest.mark.parametrize("name", ["units/a.json", "units/source.safetensors", "study.html"])
def test_what_a_kill_left_of_a_file_goes_with_the_next_start(tmp_path: Path, name: str) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / name)], check=False)
    assert list(tmp_path.rglob(".*"))
    both, ctx = pair(tmp_path), around(tmp_path)
    with alone_in(tmp_path, "study"):
        take_up(both, tmp_path, ctx)
        finish_all(both, ctx, 1, 1)
    assert not list(tmp_path.rglob(".*"))


def other_code(unit: Counted) -> None:
    write_record(unit.file, {"name": unit.file.stem, "times": 0})


def test_records_of_other_code_are_kept_and_told_of(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    both, ctx = pair(tmp_path), around(tmp_path)
    other_code(both[0])
    take_up(both, tmp_path, ctx)
    assert "1 of 1 finished units" in told.text and "made by other code" in told.text
    records = finish_all(both, ctx, 1, 1)
    assert [record["times"] for record in records] == [0, 1], "hours of work are not thrown away"
    assert made_by(records) == f"{code_digest()[:12]} (1), unknown (1)"
    assert made_by(records[1:]) == code_digest()[:12]
    told.clear()
    take_up(both[1:], tmp_path, ctx)
    assert not told.text, "those of this code need no word"


def test_never_does_all_again(tmp_path: Path) -> None:
    both, ctx = pair(tmp_path), around(tmp_path, "never")
    other_code(both[0])
    both[1].state(ctx).mkdir(parents=True)
    take_up(both, tmp_path, ctx)
    assert not both[0].file.exists() and not both[1].state(ctx).exists()
    assert [record["times"] for record in finish_all(both, ctx, 1, 1)] == [1, 1]


def test_must_refuses_nothing_and_units_of_other_code(tmp_path: Path) -> None:
    both, ctx = pair(tmp_path), around(tmp_path, "must")
    with pytest.raises(MissingInput, match="no finished unit and no saved state") as caught:
        take_up(both, tmp_path, ctx)
    assert caught.value.exit_code == 4
    both[0].state(ctx).mkdir(parents=True)
    take_up(both, tmp_path, ctx)
    finish(both[0], ctx)
    take_up(both, tmp_path, ctx)
    other_code(both[1])
    with pytest.raises(MissingInput, match=r"1 of 2 finished units .* made by other code"):
        take_up(both, tmp_path, ctx)
    assert read_json(both[1].file)["times"] == 0


HOLD = """
import sys
from pathlib import Path
from graftgan.study.units import alone_in
with alone_in(Path(sys.argv[1]), "study"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_studies_never_work_in_one_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "out", target_is_directory=True)
    env = os.environ | {"GRAFTGAN_HOME": str(tmp_path / "other")}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out")],
        env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(TryAgain, match="another process runs study"),
            alone_in(tmp_path / "link", "study"),
        ):
            pytest.fail("both are in")
        other.kill()
    with alone_in(tmp_path / "link", "study"):
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".study.lock"]
    assert not list((tmp_path / "out").iterdir())
