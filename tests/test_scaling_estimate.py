from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "scaling.py"


@pytest.fixture(scope="module")
def scaling() -> Any:
    import sys

    spec = importlib.util.spec_from_file_location("scaling", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scaling"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("workers", [2, 5])
def test_the_serial_share_is_found_again_from_two_times(scaling: Any, share: float, workers: int) -> None:
    together = scaling.predicted_s(80.0, share, workers)
    assert scaling.serial_share(80.0, together, workers) == pytest.approx(share, abs=1e-12)
    assert scaling.predicted_s(80.0, share, 10**9) == pytest.approx(80.0 * share, abs=1e-6)


def test_faster_than_ideal_counts_as_no_serial_share(scaling: Any) -> None:
    assert scaling.serial_share(10.0, 4.0, 2) == 0.0
    assert scaling.serial_share(10.0, 30.0, 2) == 1.0


def test_the_page_has_speed_up_and_an_estimate_from_units(scaling: Any) -> None:
    times = {"finetune": (60.0, 40.0), "rank": (70.0, 35.0), "evaluate": (30.0, 18.0)}
    units = {"finetune": (6.0, "kimg"), "rank": (7, "sources"), "evaluate": (500.0, "samples")}
    timings = [
        scaling.Timing(stage, workers, seconds, 2.0, *units[stage])
        for stage, pair in times.items()
        for workers, seconds in zip((1, 2), pair, strict=True)
    ]
    assert "| finetune (6 kimg) | 2 | 40.00 | 2.00 | 1.50 | 75% | 6.667 |" in scaling.table(timings)
    text = scaling.estimate(timings, 8, 1000, "CPU core")
    # 10 s a source without a serial share: 10000 s alone, an eighth with eight.
    assert "| rank, 1000 sources | 2.8 h | 0.0% | 20.8 min |" in text
    # f = 1/3: 60 (1/3 + 2/3 / 8) = 25 s.
    assert "| finetune, 6 kimg | 60.0 s | 33.3% | 25.0 s |" in text
