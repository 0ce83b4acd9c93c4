"""The tables of the transfer benchmark, and where its results lie in the README."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stages.test_finetune import Workshop, quick

from graftgan.context import Context, StopSignal
from graftgan.contract import read_json, write_json
from graftgan.errors import Interrupted
from graftgan.stages.finetune import Arm
from scripts import loaded

transfer: Any = loaded("transfer")


def runs(**kids: list[float]) -> list[dict[str, Any]]:
    return [{"source": source, "kid": kid, "stderr": 0.01} for source, its in kids.items() for kid in its]


def ranking(choice: str, **recall: float) -> dict[str, Any]:
    rows = [{"name": name, "recall": {"value": value}} for name, value in recall.items()]
    return {"choice": {"name": choice}, "rows": rows}


def results() -> dict[str, Any]:
    near = ranking("toons", toons=0.4, lines=0.1, scratch=0.0)
    far = ranking("lines", toons=0.0, lines=0.2, scratch=0.0)
    targets = {
        "micah": transfer.summarise(
            near, runs(toons=[0.2, 0.22, 0.24], lines=[0.3] * 3, scratch=[0.6, 0.7, 0.8])
        ),
        "ink": transfer.summarise(far, runs(toons=[0.2] * 3, lines=[0.3] * 3, scratch=[0.2, 0.4, 0.6])),
    }
    return {"protocol": "p", "seeds": 3, "targets": targets}


def test_what_was_recommended_is_held_against_scratch_and_the_best() -> None:
    micah, ink = (results()["targets"][name] for name in ("micah", "ink"))
    assert [row["source"] for row in micah["rows"]] == ["toons", "lines", "scratch"]
    assert (
        micah["apart"] and round(micah["scratch_ratio"], 3) == round(0.7 / 0.22, 3) and micah["regret"] == 0
    )
    assert not ink["apart"] and round(ink["regret"], 9) == 0.5


def test_the_interval_is_that_of_student_over_seeds() -> None:
    mean, low, high = transfer.mean_interval(runs(toons=[0.2, 0.22, 0.24]))
    assert round(mean, 9) == 0.22
    # The quantile of two degrees of freedom is 4.303, the deviation 0.02.
    assert round(high - mean, 4) == round(4.302653 * 0.02 / 3**0.5, 4) == round(mean - low, 4)
    assert transfer.mean_interval(runs(toons=[0.2]))[2] == 0.2 + 1.96 * 0.01


def test_the_targets_stand_beside_each_other_with_the_recommended_marked() -> None:
    lines = transfer.beside(results()).splitlines()
    assert lines[0] == "| source | ink | micah |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| toons", "| lines", "| scratch"]
    assert lines[2] == "| toons | 0.200 (0.200 to 0.200) | 0.220 (0.170 to 0.270) * |"
    assert lines[3].startswith("| lines | 0.300 (0.300 to 0.300) * |")


def test_the_long_table_says_whether_the_intervals_overlap() -> None:
    text = transfer.table(results(), 5.0)
    assert (
        "micah: scratch / recommended = 3.18, their intervals do not overlap; the recommendation is 0%"
        in text
    )
    assert (
        "ink: scratch / recommended = 1.33, their intervals overlap; the recommendation is 50% above" in text
    )


class Stops(StopSignal):
    """A signal that comes when it was asked for so many times."""

    def __init__(self, after: int) -> None:
        self.left = after
        super().__init__()

    @property
    def requested(self) -> bool:
        self.left -= 1
        return self.left < 0

    @requested.setter
    def requested(self, value: bool) -> None:
        pass


@pytest.fixture
def arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arm:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    workshop = Workshop(tmp_path).furnish()
    params = workshop.job(**quick()).params
    return Arm("near-0", "near", params, workshop.out / "prepare" / "dataset", tmp_path / "runs" / "near-0")


def test_a_finished_run_keeps_its_seconds(arm: Arm, tmp_path: Path) -> None:
    ctx = Context(tmp_path / "states", tmp_path / "cache")
    assert not transfer.finished(arm)
    seconds = transfer.train(arm, ctx)
    assert seconds > 0 and transfer.finished(arm)
    assert transfer.train(arm, ctx) == seconds


def test_what_is_forgotten_goes_on_from_nothing(arm: Arm, tmp_path: Path) -> None:
    ctx = Context(tmp_path / "states", tmp_path / "cache")
    transfer.train(arm, ctx)
    states = transfer.states_of(arm, ctx)
    assert [path.name for path in sorted(states.iterdir())] == [arm.run, f"{arm.run}.seconds.json"]
    transfer.forget(arm, ctx)
    assert not transfer.finished(arm) and not list(states.iterdir())


def test_an_interrupted_run_has_the_seconds_of_both_starts(arm: Arm, tmp_path: Path) -> None:
    ctx = Context(tmp_path / "states", tmp_path / "cache")
    with pytest.raises(Interrupted):
        transfer.train(arm, replace(ctx, stop=Stops(1)))
    (file,) = transfer.states_of(arm, ctx).glob("*.seconds.json")
    first = read_json(file)["cpu_s"]
    assert first > 0 and not transfer.finished(arm)
    assert transfer.train(arm, ctx) > first


def test_a_run_that_was_killed_on_the_way_does_not_tell_the_rest_for_the_whole(
    arm: Arm, tmp_path: Path
) -> None:
    ctx = Context(tmp_path / "states", tmp_path / "cache")
    with pytest.raises(Interrupted):
        transfer.train(arm, replace(ctx, stop=Stops(1)))
    (file,) = transfer.states_of(arm, ctx).glob("*.seconds.json")
    # What a kill leaves: a saved state, and a clock that nobody stopped.
    write_json(file, {"cpu_s": None})
    assert transfer.train(arm, ctx) is None and transfer.finished(arm)
