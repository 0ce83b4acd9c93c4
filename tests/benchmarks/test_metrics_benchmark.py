"""`benchmarks/metrics.py` and `features.py`: both sides compute the same, and what is told of it is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import torch

from scripts import loaded

metrics: Any = loaded("metrics")
features: Any = loaded("features")
measuring: Any = loaded("measuring")
PEAKS = {"fp32": 1e9, "fp64": 1e9}
WORKS = metrics.works(metrics.TINY)


@pytest.mark.parametrize("key", range(len(WORKS)))
def test_both_sides_of_a_work_give_the_same(key: int) -> None:
    """But for subsets of KID, which are another estimate of it, known to its standard error."""
    row = metrics.compare(WORKS[key], 1, PEAKS)
    number, word = row["difference"].split(maxsplit=1)
    if word == "standard errors":
        assert float(number) < 5
    else:
        # Root of rounding noise, where there are fewer images than dimensions and the peer does not know it.
        assert float(number) < (1e-4 if "kept" in row["work"] or "10 against" in row["work"] else 1e-5)
    assert row["ours_s"] > 0 and row["peer_s"] > 0 and row["share_of_peak"] > 0


def test_statistics_are_made_inside_the_clock_unless_they_are_said_to_be_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []
    ours, theirs = metrics.moments, metrics.mean_and_covariance
    monkeypatch.setattr(metrics, "moments", lambda x: made.append(len(x)) or ours(x))
    monkeypatch.setattr(metrics, "mean_and_covariance", lambda x: made.append(-len(x)) or theirs(x))
    for kept, expected in ((False, {10, 64, -10, -64}), (True, {10, -10})):
        calls = metrics.frechet(metrics.TINY, 10, 0.0, "scipy sqrtm", kept=kept).make()
        made.clear()
        for call in calls:
            call()
        assert set(made) == expected


def test_the_exact_distance_is_that_of_a_closed_form() -> None:
    """Sets whose covariances commute: the roots of their variances are all that counts."""
    x = np.array([[2, 0], [-2, 0], [0, 6], [0, -6]], dtype=np.int64)
    y = np.array([[4, 1], [0, 1], [2, 4], [2, -2]], dtype=np.int64)
    with mpmath.workdps(40):
        found = metrics.exact_frechet(x, y, 0.5)
        deviations = [[mpmath.sqrt(mpmath.mpf(v) / 3) for v in pair] for pair in ((8, 72), (8, 18))]
        wanted = (4 + 1 + sum((a - b) ** 2 for a, b in zip(*deviations, strict=True))) / 4
        assert abs(found - wanted) < mpmath.mpf(10) ** -30


def test_our_error_is_told_against_the_exact_distance() -> None:
    row = metrics.frechet_error(8, 20, 32, digits=40)
    assert float(row["difference"].split()[0]) < 1e-14
    assert "40 digits" in row["peer"]


def test_arithmetic_of_the_frechet_distance_by_hand() -> None:
    n, m, d = 11, 50, 20
    gram = 10**2 * 20
    assert metrics.frechet_flops(n, m, d, kept=True) == pytest.approx(2 * 10 * 20 * 20 + gram + 4000 / 3)
    factor = m * d**2 + d**3 / 3
    assert metrics.frechet_flops(n, m, d, kept=False) == pytest.approx(
        2 * 10 * 20 * 20 + gram + 4000 / 3 + factor
    )
    assert metrics.pairs_flops(3, 3, 7) == 9 * 7 + 9 * 7 + 2 * 9 * 7


def test_the_table_tells_limits_shares_and_memory() -> None:
    row = {
        "work": "w", "peer": "p", "ours_s": 0.5, "peer_s": 2.0, "ratio": 4.0,
        "difference": "1.0e-09 relative", "share_of_peak": 0.5, "precision": "fp32", "ours_mib": 10.0,
        "peer_mib": 40.0,
    }  # fmt: skip
    alone = {"work": "large", "peer": "", "ours_mib": 7.0}
    text = metrics.table([row, alone], {"fp32": 2e11, "fp64": 1e11, "copy": 4.2e10})
    assert "| copying memory, read and written | 42.0 GB/s |" in text
    assert "| w | p | 0.500 s | 2.000 s | 4.0 | 50% of fp32 | 1.0e-09 relative | 10 / 40 MiB |" in text
    assert "| large |  | | | | |  | 7 MiB |" in text
    assert {
        line.count("|") for line in text.splitlines() if line.startswith(("| w ", "| large", "| work"))
    } == {9}


def test_memory_of_one_side_is_measured_in_a_process_of_its_own() -> None:
    key = next(key for key, work in enumerate(WORKS) if work.peer == "prdc")
    assert 0 <= metrics.memory_mib(key, "peer", "--quick") < 500


# What they share


def test_turns_go_to_and_fro_after_a_round_that_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    times = iter([9.0, 9.0, 1.0, 2.0, 3.0, 4.0])
    monkeypatch.setattr(measuring, "timed", lambda call: call() or next(times))
    found = measuring.turns({name: lambda name=name: order.append(name) for name in "ab"}, rounds=2)
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert found == {"a": [1.0, 4.0], "b": [2.0, 3.0]}
    assert measuring.median_ratio(found["b"], found["a"]) == (2.0 + 0.75) / 2


def test_a_turn_lasts_as_long_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"a": iter([9.0, 1.0, 2.0, 3.0]), "b": iter([9.0, 7.0])}
    monkeypatch.setattr(measuring, "timed", lambda call: next(call()))
    found = measuring.turns({name: lambda name=name: times[name] for name in "ab"}, 1, least_s=5.0)
    assert found == {"a": [2.0], "b": [7.0]}


def test_extra_memory_is_what_a_call_adds() -> None:
    held = np.ones(1 << 22)
    found = measuring.extra_mib(lambda: np.ones(8 << 20).sum())
    assert 60 < found < 80 and held.sum() > 0


def test_limits_are_those_of_a_machine() -> None:
    for precision in measuring.DTYPES:
        assert 1e7 < measuring.gemm_peak(precision, 128, runs=2) < 1e15
    assert 1e7 < measuring.copy_bandwidth(4, runs=2) < 1e13


# Features


def test_ratios_of_features_are_over_ours_and_over_torch_fidelity(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {features.OURS: [1.0, 2.0], features.FIDELITY: [4.0, 6.0], features.PYTORCH_FID: [2.0, 2.0]}

    def turns(calls: dict[str, Any], rounds: int) -> dict[str, list[float]]:
        for call in calls.values():
            call()
        return seconds

    monkeypatch.setattr(features, "turns", turns)
    given = {name: lambda images, at=at: np.full(3, 2.0 + at) for at, name in enumerate(seconds)}
    rows = {row["who"]: row for row in features.measure(given, np.zeros((12, 1)), 2)}
    assert rows[features.FIDELITY]["over_fp32"] == 3.5 and rows[features.OURS]["fidelity_over"] == 3.5
    assert rows[features.PYTORCH_FID]["fidelity_over"] == 2.5
    assert rows[features.PYTORCH_FID]["difference"] == 1.0
    text = features.table([row | {"extra_mib": 5.0} for row in rows.values()], "random")
    assert "| torch-fidelity | 2.4 | 3.50 | 1.00 |  | 5.0e-01 | 5 MiB |" in text
    assert "clean-fid was left out" in text


def test_weights_that_are_not_there_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["features.py", "--torchscript", str(tmp_path / "none.pt")])
    with pytest.raises(SystemExit):
        features.main()
    assert "none.pt: no such file" in capsys.readouterr().err


def test_our_features_in_bfloat16_come_back_in_float32() -> None:
    network = features._Cast(torch.nn.Linear(4, 2).to(torch.bfloat16), torch.bfloat16)
    assert network(torch.ones(3, 4)).dtype is torch.float32
