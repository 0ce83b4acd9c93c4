"""`benchmarks/methods.py`: its rows can be run, and its intervals compare what can be compared."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from graftgan.stages.prior import check_prior
from graftgan.transfer import METHODS
from graftgan.transfer.combinations import check_settings

FOLDER = str(Path(__file__).parents[2] / "benchmarks")


def loaded() -> Any:
    """The benchmark; the one it builds on has the name of a folder of tests, which keeps it."""
    kept = sys.modules.pop("transfer", None)
    sys.path.insert(0, FOLDER)
    try:
        return importlib.import_module("methods")
    finally:
        sys.path.remove(FOLDER)
        sys.modules.pop("transfer", None)
        if kept is not None:
            sys.modules["transfer"] = kept


methods = loaded()
# Two targets of unlike difficulty; the other method is a tenth better on each draw, give or take.
FULL = {("easy", 0): 0.2, ("easy", 1): 0.21, ("hard", 0): 2.0, ("hard", 1): 2.2}
SHARES = (0.9, 0.88, 0.91, 0.9)


def record(kid: float) -> dict[str, Any]:
    return {"kid": kid, "stderr": 0.01 * kid, "recall": 0.5, "copy": 0.0, "cpu_s": 2.0, "stored_bytes": 10}


def runs() -> dict[str, dict[Any, dict[str, Any]]]:
    full = {methods.Draw(target, 25, seed): record(kid) for (target, seed), kid in FULL.items()}
    other = {
        draw: record(share * run["kid"]) for share, (draw, run) in zip(SHARES, full.items(), strict=True)
    }
    return {"full": full, "other": other}


@pytest.mark.parametrize("name", methods.VARIANTS)
@pytest.mark.parametrize("images", [25, 1000])
def test_every_row_can_be_run(name: str, images: int) -> None:
    keys = (f"finetune.{key}" for key in methods.VARIANTS[name])
    settings = methods.Draw("micah", images, 0).settings(3.0, *keys).finetune
    check_settings(settings)
    check_prior(settings, images)


def test_every_method_of_the_zoos_family_is_a_row() -> None:
    of_family = {n for n, m in METHODS.items() if m.families is None or "stylegan2" in m.families}
    measured = {method for method in of_family if f"method={method}" in str(methods.VARIANTS)} | {"full"}
    assert measured == of_family


def test_pairs_tell_apart_what_unlike_targets_hide() -> None:
    best, full = methods.summarise(runs())
    assert (best["method"], full["method"]) == ("other", "full")
    assert full["ratio"] == full["ratio_low"] == full["ratio_high"] == 1.0
    assert best["ratio_low"] < best["ratio"] < best["ratio_high"] < 1.0
    assert best["high"] > full["low"], "the plain intervals overlap"
    interval = ttest_1samp(np.log(SHARES), 0.0).confidence_interval(0.95)
    assert (best["ratio_low"], best["ratio_high"]) == pytest.approx(tuple(np.exp(interval)))


def test_of_one_draw_the_interval_is_that_of_the_images() -> None:
    run, full = record(0.9), record(1.0)
    ratio, low, high = methods.ratio_interval([(run, full)])
    assert ratio == pytest.approx(0.9)
    assert np.log(high / low) == pytest.approx(2 * 1.96 * 0.01 * 2**0.5)


def test_the_table_has_a_line_a_method() -> None:
    results = {"kimg": 3.0, "source": "near", "protocol": "p", "images": {25: methods.summarise(runs())}}
    head, _, first, second = methods.table(results).splitlines()[-4:]
    assert first.startswith("| other |") and second.startswith("| full |")
    assert {line.count("|") for line in (head, first, second)} == {10}
    assert "| 0.90 | 0.88 to 0.92 |" in first
