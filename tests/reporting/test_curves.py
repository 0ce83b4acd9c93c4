from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from graftgan.reporting import drawn, interactive
from graftgan.reporting.curves import PANELS, colours, series
from graftgan.reporting.facts import Facts, RunFacts


def run(name: str = "chosen", **columns: list[float | None]) -> RunFacts:
    seen: list[float | None] = [0.0, 1000.0, 2000.0]
    model = {"best": {"images_seen": 1000, "kid": 0.2}}
    return RunFacts(name, Path(), model, {"images_seen": seen, **columns}, (), {})


def panel(key: str) -> object:
    return next(p for p in PANELS if p.key == key)


def test_gaps_are_skipped_and_images_become_thousands() -> None:
    kid = run(kid_validation=[0.3, None, 0.1], kid_low=[0.2, None, 0.0], kid_high=[0.4, None, 0.2])
    [line] = series(panel("kid"), [kid])
    assert (line.x, line.y) == ((0.0, 2.0), (0.3, 0.1))
    assert (line.low, line.high) == ((0.2, 0.0), (0.4, 0.2))
    assert line.best == (1.0, 0.2)


def test_a_band_needs_both_ends_everywhere() -> None:
    kid = run(kid_validation=[0.3, 0.2, 0.1], kid_low=[0.2, None, 0.0], kid_high=[0.4, 0.3, 0.2])
    [line] = series(panel("kid"), [kid])
    assert line.low == line.high == ()


def test_logarithmic_panels_leave_out_what_has_no_logarithm() -> None:
    [line] = series(panel("r1"), [run(r1=[0.0, -1.0, 0.5])])
    assert line.y == (0.5,)


def test_panels_without_points_have_no_lines() -> None:
    assert series(panel("loss"), [run()]) == []


def test_colours_are_fixed_for_the_usual_runs_and_distinct_for_others() -> None:
    found = colours([run("chosen"), run("a"), run("b")])
    assert found["chosen"] == "#2f7de1" and len(set(found.values())) == 3


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 24, [0, 5, 10, 15, 20, 25]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (3, 3, [3, 3.6]),
        (-0.5, 0.6, None),
    ],
)
def test_ticks_are_round_and_enclose_the_range(low: float, high: float, expected: list[float] | None) -> None:
    found = drawn.ticks(low, high)
    assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= 8
    steps = {round(b - a, 9) for a, b in itertools.pairwise(found)}
    assert len(steps) == 1
    mantissa = steps.pop() / 10 ** math.floor(math.log10(found[1] - found[0]) + 1e-9)
    assert any(mantissa == pytest.approx(m) for m in (1, 2, 5))
    if expected and low != high:
        assert found == pytest.approx(expected)


def test_drawn_lines_lie_inside_the_frame_and_fall_when_values_fall(facts: Facts) -> None:
    charts = drawn.charts(facts.runs)
    assert [c.panel.key for c in charts] == ["kid", "loss", "sign", "ada", "grad", "r1"]
    for chart in charts:
        for path in chart.paths:
            points = [tuple(map(float, p.split(","))) for p in f"{path.points} {path.band}".split()]
            assert all(drawn.LEFT <= x <= drawn.WIDTH - drawn.RIGHT for x, _ in points)
            assert all(drawn.TOP <= y <= drawn.HEIGHT - drawn.BOTTOM for _, y in points)
    ys = [float(p.split(",")[1]) for p in charts[0].paths[0].points.split()]
    assert ys == sorted(ys), "KID falls, so the line goes down the page"


def test_a_single_point_can_be_drawn() -> None:
    [chart] = drawn.charts([run(ada_p=[None, 0.0, None])])
    assert chart.paths[0].points.count(",") == 1


def test_interactive_charts_have_stable_names(facts: Facts) -> None:
    first, second = interactive.charts(facts.runs), interactive.charts(facts.runs)
    assert json.dumps(first.data) == json.dumps(second.data)
    assert list(first.data["items"][0]["roots"].values()) == [f"curve-{p.key}" for p in PANELS]
    roots = [root["id"] for root in first.data["documents"]["curves"]["roots"]]
    assert first.data["items"][0]["root_ids"] == roots == list(first.data["items"][0]["roots"])


def test_interactive_charts_hold_the_points_and_the_tags(facts: Facts) -> None:
    text = json.dumps(interactive.charts(facts.runs).data)
    for name in ("chosen", "worst", "scratch"):
        assert f'"run:{name}"' in text
    kid = facts.chosen.curves["kid_validation"][6]
    assert str(kid) in text


def test_every_reference_inside_the_document_is_defined(facts: Facts) -> None:
    defined, used = set(), set()

    def walk(value: object) -> None:
        if isinstance(value, dict):
            if "id" in value:
                (defined if "type" in value else used).add(value["id"])
            for part in value.values():
                walk(part)
        elif isinstance(value, list):
            for part in value:
                walk(part)

    walk(interactive.charts(facts.runs).data["documents"])
    assert used <= defined and len(defined) > 50
    assert all(name.startswith("c") for name in defined)


def test_runs_without_curves_leave_an_empty_document(facts: Facts) -> None:
    bare = [replace(r, curves={}) for r in facts.runs]
    assert interactive.charts(bare).data["documents"]["curves"]["roots"] == []
    assert drawn.charts(bare) == []
