"""`benchmarks/ledger.py`: what has a line is not run again, and no line counts for another zoo or budget."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graftgan.context import StopSignal
from graftgan.contract import read_json
from scripts import loaded

methods: Any = loaded("methods")
Draw, Ledger = methods.Draw, methods.Ledger
FIRST, SECOND = Draw("micah", 25, 0), Draw("micah", 25, 1)


def run(kid: float, **more: Any) -> dict[str, Any]:
    fixed = {"source": "near", "recall": 0.5, "copy": 0.1, "stored_bytes": 10, "protocol": "p@32"}
    return {**fixed, "kid": kid, "stderr": 0.01, "cpu_s": 1 / 3, "inversion_s": None, **more}


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    return Ledger(tmp_path / "runs.csv", {"near": "ab", "far": "cd"}, 3.0, "recommended")


def test_runs_come_back_with_every_bit(ledger: Any) -> None:
    runs = {
        ("full", FIRST): run(0.1 + 0.2),
        ("minegan, fixed G", FIRST): run(1e-17, cpu_s=None),
        ("full", SECOND): run(2.0, copy=None),
    }
    assert ledger.read() == {}
    ledger.write(runs)
    assert ledger.read() == runs


def test_lines_of_another_zoo_budget_or_source_do_not_count(ledger: Any) -> None:
    ledger.write({("full", FIRST): run(1.0)})
    others = ({"sources": {"near": "ab", "far": "ee"}}, {"kimg": 2.0}, {"choose": "near"})
    for changes in others:
        assert replace(ledger, **changes).read() == {}
    assert replace(ledger, sources={"far": "cd", "near": "ab"}).read() == ledger.read() != {}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Draw, list[str]]]:
    """What would have been run, instead of running it."""
    seen: list[tuple[Draw, list[str]]] = []

    def arms_of(draw: Draw, names: list[str], kimg: float, choose: str, work: Path, *_: Any) -> list[Any]:
        seen.append((draw, names))
        rank = argparse.Namespace(catalogue=methods.ROOT / "zoo" / "catalogue.yaml")
        params = argparse.Namespace(runtime=argparse.Namespace(threads=1), rank=rank)
        return [
            argparse.Namespace(folder=work / name, run=name, params=params, source="mixture")
            for name in names
        ]

    monkeypatch.setattr(methods, "arms_of", arms_of)
    monkeypatch.setattr(methods, "run_all", lambda work, arms, *_: [run(1.0 + len(seen)) for _ in arms])
    return seen


def options(folder: Path, **changes: Any) -> argparse.Namespace:
    usual = {
        "kimg": 3.0, "seeds": 1, "images": [25], "targets": ["micah"], "methods": ["lora"], "again": [],
        "source": None, "work": folder / "work", "results": folder, "workers": 1,
    }  # fmt: skip
    return argparse.Namespace(**{**usual, **changes})


def test_a_benchmark_in_parts_runs_what_is_missing(asked: list[Any], tmp_path: Path) -> None:
    family, stop = methods.FAMILIES["stylegan2"], StopSignal()
    methods.measure(family, options(tmp_path), stop)
    methods.measure(family, options(tmp_path, seeds=2, methods=["lora", "ewc"]), stop)
    assert asked == [(FIRST, ["full", "lora"]), (FIRST, ["ewc"]), (SECOND, ["full", "lora", "ewc"])]
    results = methods.measure(family, options(tmp_path, seeds=2), stop)
    assert len(asked) == 3
    drawn = {row["method"]: row["draws"] for row in results["images"][25]}
    assert drawn == {name: ["micah 0", "micah 1"] for name in ("full", "lora", "ewc")}
    assert read_json(tmp_path / "methods.json")["images"]["25"] == results["images"][25]


def test_rows_are_run_anew_if_that_is_asked_for(asked: list[Any], tmp_path: Path) -> None:
    family, stop = methods.FAMILIES["stylegan2"], StopSignal()
    methods.measure(family, options(tmp_path), stop)
    (tmp_path / "work" / "lora").mkdir(parents=True)
    methods.measure(family, options(tmp_path, again=["lora"]), stop)
    assert asked[1:] == [(FIRST, ["lora"])]
    assert not (tmp_path / "work" / "lora").exists()
