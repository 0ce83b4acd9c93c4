from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from graftgan.cli import cli
from graftgan.context import Context
from graftgan.errors import MissingInput
from graftgan.study import commands, playground_page
from graftgan.study.findings import (
    OUTCOMES,
    PREDICTORS,
    PUBLISHED,
    arm_rows,
    correlations,
    frame,
    outcome,
    published,
)
from graftgan.study.nets import fresh_pair
from graftgan.study.playground import (
    ARMS,
    QUICK,
    Playground,
    Scale,
    arm_units,
    coarse_first,
    correlation_units,
    finished,
    look,
    pretrainings,
    run,
    seed_of,
)

TINY = Scale(20, 10, 4, 10, 4, 2, 32, 32, 1e-3)
LOOK = {"recall", "precision", "gradient_similarity", "w1", "modes", "fidelity", "step"}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Playground]:
    out = tmp_path_factory.mktemp("playground")
    return out, run(out, 1, TINY, Context(out, out), workers=1)


def test_the_published_scale_is_that_of_the_code() -> None:
    scale = Scale()
    assert (scale.source_steps, scale.every, scale.adapt_steps, scale.test_every) == (5000, 50, 1000, 250)
    assert (scale.points, scale.recall_points, scale.lr) == (2048, 1000, 2e-4)
    sources = [s for s in pretrainings(Path(), 1, scale) if s.part == "correlation"]
    units = correlation_units(Path(), sources, scale)
    assert len([u for u in units if dict(u.facts)["source"] == "I"]) == 101, "as many as were published"
    assert {u.r1_gamma for u in units} == {0.0} and {u.steps for u in units} == {1000}
    assert QUICK.lr > scale.lr, "quick is not the published setting"


def test_the_arms_are_both_one_none_and_crossed() -> None:
    sources = pretrainings(Path("r"), 2, Scale())
    units = arm_units(Path("r"), sources, 2, Scale())
    assert len(units) == 18 and len({u.file for u in units}) == 18
    by_arm = {dict(u.facts)["arm"]: u for u in units if u.seed == 1}
    assert by_arm["scratch"].generator is None and by_arm["scratch"].discriminator is None
    crossed = by_arm["G of I, D of II"]
    assert crossed.generator is not None and crossed.discriminator is not None
    assert "-I-1" in crossed.generator[0].name and "-II-1" in crossed.discriminator[0].name
    only = by_arm["II, D only"]
    assert only.generator is None and only.discriminator == by_arm["II both"].discriminator
    assert {u.r1_gamma for u in units} == {1.0}


def test_every_checkpoint_of_every_source_is_adapted_and_every_arm_run(done: tuple[Path, Playground]) -> None:
    _, found = done
    assert [(r["source"], r["step"]) for r in found.checkpoints] == [
        (law, step) for law in ("I", "II") for step in (0, 10, 20)
    ]
    assert [r["arm"] for r in found.arms] == list(ARMS)
    for record in found.checkpoints:
        assert [x["step"] for x in record["curve"]] == [0, 1, 2, 4], "the start, the first update, the tests"
        assert set(record["curve"][0]) == LOOK


def test_a_start_is_measured_as_its_checkpoint_is(done: tuple[Path, Playground]) -> None:
    out, found = done
    (weights,) = out.glob("units/*/source-correlation-II-0.safetensors")
    pair = fresh_pair(99)
    tensors = load_file(weights)
    pair.load_generator(tensors, "20.")
    pair.load_discriminator(tensors, "20.")
    record = next(r for r in found.checkpoints if (r["source"], r["step"]) == ("II", 20))
    assert look(pair, 0, TINY) == pytest.approx(record["curve"][0])


def test_both_sources_begin_with_the_same_networks_and_fresh_arms_with_others(
    done: tuple[Path, Playground],
) -> None:
    _, found = done
    starts = [r["curve"][0] for r in found.checkpoints if r["step"] == 0]
    assert starts[0] == starts[1], "step 0 is the same for both sources"
    by_arm = {r["arm"]: r["curve"][0] for r in found.arms}
    assert by_arm["I, D only"]["w1"] == by_arm["II, D only"]["w1"] == by_arm["scratch"]["w1"]
    assert by_arm["I, G only"]["w1"] == by_arm["I both"]["w1"] == by_arm["G of I, D of II"]["w1"]
    assert by_arm["I both"]["w1"] != by_arm["scratch"]["w1"]
    similarity = {arm: start["gradient_similarity"] for arm, start in by_arm.items()}
    assert similarity["I both"] != similarity["I, G only"], "the discriminators differ"


def test_a_second_run_does_nothing_and_a_lost_unit_comes_back_the_same(done: tuple[Path, Playground]) -> None:
    out, found = done
    files = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.glob("units/*/*.json")}
    lost = next(p for p in files if p.name == "arm-I-both-0.json")
    lost.unlink()
    again = run(out, 1, TINY, Context(out, out), workers=1)
    assert again == found
    changed = [p for p, (at, _) in files.items() if p.stat().st_mtime_ns != at]
    assert changed == [lost] and lost.read_bytes() == files[lost][1]


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:-9])])
def test_lost_or_damaged_checkpoints_of_a_source_are_named_and_made_again(
    done: tuple[Path, Playground],
    damage: Callable[[Path], object],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out, found = tmp_path / "p", done[1]
    shutil.copytree(done[0], out)
    weights = next(out.glob("units/*/source-arms-I-0.safetensors"))
    whole = weights.read_bytes()
    damage(weights)
    # What needs it is not done yet.
    next(out.glob("units/*/arm-I-both-0.json")).unlink()
    with pytest.raises(MissingInput, match=weights.name):
        run(out, 1, TINY, Context(out, out, resume="must"), workers=1)
    log = logging.getLogger("graftgan")
    log.addHandler(caplog.handler)
    try:
        assert run(out, 1, TINY, Context(out, out), workers=1) == found
    finally:
        log.removeHandler(caplog.handler)
    assert f"{weights} " in caplog.text and "its unit is done again" in caplog.text
    assert weights.read_bytes() == whole


def test_other_scales_do_not_mix(done: tuple[Path, Playground]) -> None:
    out, _ = done
    before = set(out.glob("units/*"))
    other = replace(TINY, every=20, source_steps=20, adapt_steps=1)
    assert len(run(out, 1, other, Context(out, out), workers=1).checkpoints) == 4
    assert len(set(out.glob("units/*")) - before) == 1


def test_processes_find_what_one_process_finds(done: tuple[Path, Playground], tmp_path: Path) -> None:
    _, found = done
    assert run(tmp_path, 1, TINY, Context(tmp_path, tmp_path), workers=2) == found


def test_a_killed_study_goes_on_where_it_was(done: tuple[Path, Playground], tmp_path: Path) -> None:
    _, found = done
    code = (
        "import sys, torch; from pathlib import Path; torch.set_num_threads(1)\n"
        "from graftgan.context import Context; from study.test_playground import TINY\n"
        "from graftgan.study.playground import run\n"
        "out = Path(sys.argv[1]); run(out, 1, TINY, Context(out, out), 1)"
    )
    tests = str(Path(__file__).resolve().parent.parent)
    around = os.environ | {"PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=around)
    while not list(tmp_path.glob("units/*/checkpoint-*.json")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.glob("units/*/*.json")}
    assert kept
    assert run(tmp_path, 1, TINY, Context(tmp_path, tmp_path), workers=1) == found
    assert all(p.stat().st_mtime_ns == at for p, at in kept.items()), "what was done was not done again"


def test_coarse_checkpoints_come_first_and_none_is_left_out() -> None:
    (source, *_) = pretrainings(Path(), 1, Scale())
    order = coarse_first(source)
    assert sorted(order) == source.steps and len(order) == 101
    assert order[:4] == [0, 3200, 1600, 4800], "the middle of what is left, again and again"


def test_one_source_alone_without_arms_and_what_is_done_so_far(
    done: tuple[Path, Playground], tmp_path: Path
) -> None:
    _, whole = done
    found = run(tmp_path, 1, TINY, Context(tmp_path, tmp_path), 1, laws=("I",), with_arms=False)
    assert found.checkpoints == [r for r in whole.checkpoints if r["source"] == "I"] and not found.arms
    assert finished(tmp_path, 1, TINY) == found
    next(tmp_path.glob("units/*/checkpoint-I-0-10.json")).unlink()
    assert [r["step"] for r in finished(tmp_path, 1, TINY).checkpoints] == [0, 20]


def test_seeds_depend_on_the_words() -> None:
    assert seed_of("a", 1) == seed_of("a", 1) != seed_of("a", 2)
    assert 0 <= seed_of("x") < 2**32


# Findings


def curve(*values: float) -> list[dict[str, float]]:
    return [{"step": step, "w1": value} for step, value in zip((0, 1, 250, 500), values, strict=False)]


def test_the_published_outcome_counts_from_the_first_update_on() -> None:
    looks = curve(1.0, 3.0, 5.0, 4.0)
    assert [outcome(looks, name) for name in OUTCOMES] == [3.0, 4.0, 4.0]


def synthetic(source: str, n: int) -> list[dict[str, object]]:
    """Starts whose recall decides the outcome, with the other measures constant or equal to it."""
    records = []
    for i in range(n):
        recall = i / n
        start = {
            "step": 0,
            "recall": recall,
            "precision": 0.5,
            "gradient_similarity": recall**2,
            "w1": 20.0 - i,
        }
        tests = [{"step": s, "w1": 20 - 10 * recall + s / 500} for s in (1, 250, 500)]
        records.append({"source": source, "step": i, "curve": [start, *tests]})
    return records


def test_correlations_by_source_and_together() -> None:
    found = correlations([*synthetic("I", 12), *synthetic("II", 5)])
    assert len(found) == 3 * len(PREDICTORS) * len(OUTCOMES)
    by_key = {(f.starts, f.predictor, f.outcome): f for f in found}
    line = by_key["I", "recall", "min W1"]
    assert line.ours.r == pytest.approx(-1) and line.ours.n == 12
    assert by_key["II", "recall", "final W1"].ours.n == 5 and by_key["both", "w1", "final W1"].ours.n == 17
    assert by_key["I", "precision", "min W1"].ours.r is None
    assert line.published == PUBLISHED["recall"] and line.published.r == -0.843 and line.published.n == 101
    named = [key for key, f in by_key.items() if f.published is not None]
    assert named == [("I", "recall", "min W1"), ("I", "gradient_similarity", "min W1")]


def test_the_published_gradient_similarity_is_turned_to_our_sign() -> None:
    assert PUBLISHED["gradient_similarity"].r == -0.728
    found = published("gradient_similarity")
    assert found is not None and found.r == 0.728
    assert published("w1") is None


def test_arms_are_averaged_over_seeds() -> None:
    def looks(*w1: float) -> list[dict[str, float]]:
        return [{"step": s, "w1": v} for s, v in zip((0, 1, 100, 400), w1, strict=True)]

    records = [
        {"arm": "scratch", "curve": looks(20, 19, 10, 6)},
        {"arm": "scratch", "curve": looks(22, 21, 12, 4)},
    ]
    (row,) = arm_rows(records)
    assert (row.start["w1"], row.middle["w1"], row.end["w1"]) == (21, 11, 5)
    assert row.final_w1 == (6, 4) and row.middle["step"] == 100


# Files and the command


def test_the_table_has_a_row_a_look_and_the_page_all_that_was_found(done: tuple[Path, Playground]) -> None:
    out, found = done
    table, page = playground_page.write(found, out)
    read = pd.read_parquet(table)
    assert len(read) == sum(len(r["curve"]) for r in [*found.checkpoints, *found.arms])
    assert read.equals(frame(found)) and set(read.columns) > LOOK
    text = page.read_text(encoding="utf-8")
    assert "-0.843" in text and "published" in text and "not independent" in text
    assert all(arm in text for arm in ARMS)
    assert "<script" not in text and "http" not in text.replace("http-equiv", "")
    first = page.read_bytes()
    playground_page.write(found, out)
    assert page.read_bytes() == first, "equal findings give equal bytes"


def test_the_command_writes_both_files_and_tells_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftgan.study.playground.QUICK", TINY)
    monkeypatch.setattr(commands.StopSignal, "install", lambda self: None)
    words = ["study", "playground", "--quick", "--checkpoints-every", "20", "--out", str(tmp_path / "p")]
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "Recall at the start against the lowest W1" in result.output
    assert (tmp_path / "p" / "playground.html").is_file() and (
        tmp_path / "p" / "playground.parquet"
    ).is_file()
    assert torch.get_num_threads() == 1


@pytest.mark.nightly
def test_the_quick_playground_shows_what_the_paper_claims(tmp_path: Path) -> None:
    found = run(tmp_path, 1, QUICK, Context(tmp_path, tmp_path), workers=1)
    rows = {row.arm: row for row in arm_rows(found.arms)}
    w1 = {arm: row.end["w1"] for arm, row in rows.items()}
    assert w1["I both"] < w1["scratch"] < w1["II both"], "a broad source helps, a narrow one harms"
    wide, narrow = rows["I both"].start, rows["II both"].start
    assert narrow["precision"] > wide["precision"] and narrow["recall"] < wide["recall"] - 0.3
    assert rows["I both"].middle["w1"] < rows["I, G only"].middle["w1"], "the matched D helps early"
    assert rows["I, G only"].end["w1"] < w1["I both"] + 2, "G alone catches up"
    assert abs(w1["I, D only"] - w1["scratch"]) < 5, "D alone is like scratch"
    by_key = {(f.starts, f.predictor, f.outcome): f.ours.r for f in correlations(found.checkpoints)}
    recall = by_key["both", "recall", "min W1"]
    assert recall is not None and recall < -0.5
