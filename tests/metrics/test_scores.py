from __future__ import annotations

import json

import numpy as np
import pytest

from graftgan.errors import ProtocolMismatch
from graftgan.metrics.scores import (
    Score,
    ScoreSettings,
    evaluate_features,
    metric_name,
    require_same_protocol,
)

PROTOCOL = "efflite0@224/bicubic-aa/0123456789ab"


def draw(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 16)).astype(np.float32) + np.float32(shift)


def by_name(scores: list[Score]) -> dict[str, Score]:
    return {score.name: score for score in scores}


def test_names_tell_the_extractor_and_only_the_official_one_is_bare() -> None:
    assert metric_name("kid", PROTOCOL) == "kid_efflite0"
    assert metric_name("fd", "efflite0-128@128/bicubic-aa/00") == "fd_efflite0_128"
    assert metric_name("fd", "inception@299/tf1-bilinear/00") == "fid"
    assert metric_name("kid", "inception@299/tf1-bilinear/00") == "kid"
    assert metric_name("recall", "inception@299/tf1-bilinear/00") == "recall_inception"
    assert metric_name("kid", "onnx-Inception@299/bicubic-aa/00") == "kid_onnx_inception"


def test_one_pass_gives_all_scores_with_intervals_floors_and_protocol() -> None:
    scores = evaluate_features(draw(200, 0, 0.1), draw(160, 1), draw(50, 2), PROTOCOL)
    assert [s.name.removesuffix("_efflite0") for s in scores] == [
        "fd",
        "fd_excess",
        "kid",
        "precision",
        "recall",
        "density",
        "coverage",
        "copying",
        "close_share",
        "authenticity",
    ]
    assert {s.protocol for s in scores} == {PROTOCOL}
    for score in scores:
        assert score.value is not None
        if score.name != "fd_excess_efflite0":
            assert score.low is not None and score.high is not None
            assert score.low <= score.value <= score.high
            assert (score.n_fake, score.n_real) == (200, 160)
    named = by_name(scores)
    assert named["fd_efflite0"].floor_n == 80
    assert named["fd_efflite0"].floor is not None and named["fd_efflite0"].floor > 0
    assert (named["copying_efflite0"].floor, named["copying_efflite0"].floor_n) == (0.5, None)


def test_worse_fakes_score_worse_everywhere() -> None:
    real, train = draw(160, 1), draw(50, 2)
    good = by_name(evaluate_features(draw(200, 0), real, train, PROTOCOL))
    bad = by_name(evaluate_features(draw(200, 0, 1.0), real, train, PROTOCOL))
    for metric, sign in [
        ("fd", 1),
        ("fd_excess", 1),
        ("kid", 1),
        ("precision", -1),
        ("recall", -1),
        ("coverage", -1),
    ]:
        name = f"{metric}_efflite0"
        assert sign * bad[name].value > sign * good[name].value  # type: ignore[operator]


def test_dictionaries_survive_json_and_repeat_byte_for_byte() -> None:
    def once() -> str:
        scores = evaluate_features(draw(60, 0), draw(60, 1), draw(30, 2), PROTOCOL)
        return json.dumps([s.to_dict() for s in scores], allow_nan=False)

    first = once()
    assert first == once()
    assert Score(**json.loads(first)[0]).name == "fd_efflite0"


def test_what_cannot_be_measured_is_none_with_a_reason() -> None:
    named = by_name(evaluate_features(draw(60, 0), draw(18, 1), None, PROTOCOL))
    fd = named["fd_efflite0"]
    assert fd.value is not None and fd.low is None and fd.floor is None
    assert named["fd_excess_efflite0"].value is None
    assert "too few real images" in named["fd_excess_efflite0"].note
    assert named["copying_efflite0"].value is None
    assert "no training features" in named["copying_efflite0"].note
    few = by_name(evaluate_features(draw(60, 0), draw(18, 1), draw(30, 2), PROTOCOL))
    assert "held-out" in few["copying_efflite0"].note
    assert few["authenticity_efflite0"].value is not None


def test_settings_reach_the_metrics() -> None:
    sets = draw(80, 0), draw(80, 1), None
    plain = by_name(evaluate_features(*sets, PROTOCOL))
    settings = ScoreSettings(k_precision_recall=7, k_density_coverage=9, confidence=0.5, splits=1, seed=9)
    other = by_name(evaluate_features(*sets, PROTOCOL, settings=settings))
    for name in ("precision", "recall", "density", "coverage"):
        assert plain[f"{name}_efflite0"].value != other[f"{name}_efflite0"].value
    assert plain["fd_efflite0"].floor != other["fd_efflite0"].floor
    wide, narrow = plain["kid_efflite0"], other["kid_efflite0"]
    assert narrow.high - narrow.low < wide.high - wide.low  # type: ignore[operator]


def test_other_protocols_are_refused_by_name() -> None:
    assert require_same_protocol(PROTOCOL, PROTOCOL) == PROTOCOL
    with pytest.raises(ProtocolMismatch, match=r"efflite0@224.*inception@299"):
        require_same_protocol(PROTOCOL, "inception@299/tf1-bilinear/00")
    with pytest.raises(ValueError, match="no protocol"):
        require_same_protocol()
