from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from stages.models import tiny_spec
from training.nets import copies, equal
from transfer.families import SIZES

from graftgan.checkpoints.store import WEIGHTS, save_gan
from graftgan.cli import cli
from graftgan.config import Params
from graftgan.context import Context, StopSignal
from graftgan.contract import digest_file, read_json
from graftgan.errors import ConfigError, MissingInput
from graftgan.gans.base import build
from graftgan.gans.spec import GanSpec
from graftgan.metrics.kid import kid
from graftgan.metrics.precision_recall import precision, recall
from graftgan.params import load
from graftgan.stages.choosing import SELECTORS
from graftgan.study import commands, transfer, transfer_page
from graftgan.study.selectors import scorecard
from graftgan.study.transfer import Plan, Study, check, curves, displacement, run, take, typical_distance
from graftgan.study.transfer_findings import (
    ABOUT,
    averaged,
    best_kid,
    draws,
    frame,
    images_to,
    left_out,
    not_judged,
    times,
)
from graftgan.unfinished import noted

ARMS = ("both", "g_only", "d_only", "scratch")
# 6 steps, looks at 16, 32 and 48 images.
RECIPE = {
    "finetune.budget": "{kimg: 0.048}", "finetune.batch": 8, "finetune.evaluate_every_kimg": 0.016,
    "finetune.validation_samples": 16, "finetune.precision": "fp32", "finetune.r1_interval": 4,
    "finetune.scratch": "{z_dim: 8, w_dim: 8, mapping_layers: 1, channel_base: 128, channel_max: 8}",
    "rank.samples": 16, "rank.neighbours": 3, "rank.extractor": "efflite0-128", "data.resolution": 32,
    "data.split": "{validation: 0.25, test: 0.2}", "runtime.device": "cpu", "runtime.workers": 1,
    "data.near_duplicate_bits": 0,
}  # fmt: skip


def furnish(root: Path) -> list[str]:
    """Make an image set and a catalogue of two tiny sources; return assignments that use them."""
    (root / "pictures").mkdir(parents=True)
    for i, small in enumerate(np.random.default_rng(0).integers(0, 256, (60, 4, 4, 3), dtype=np.uint8)):
        Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC).save(
            root / "pictures" / f"{i:02}.png"
        )
    entries = []
    for seed, name in enumerate(("near", "far"), 1):
        (root / name).mkdir()
        save_gan(build(tiny_spec(), seed), root / name)
        entries.append(
            {"name": name, "path": name, "sha256": digest_file(root / name / WEIGHTS), "resolution": 32,
             "title": name, "licence": "CC0-1.0"}
        )  # fmt: skip
    (root / "catalogue.yaml").write_text(yaml.safe_dump(entries))
    settings = {**RECIPE, "rank.catalogue": str(root / "catalogue.yaml")}
    return [f"{key}={value}" for key, value in settings.items()]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params, list[str]]:
    root = tmp_path_factory.mktemp("transfer")
    assignments = furnish(root)
    return root, load(None, assignments), assignments


def plan(shop: tuple[Path, Params, list[str]], out: Path, **changes: Any) -> Plan:
    root, params, _ = shop
    usual = {"params": params, "targets": (str(root / "pictures"),), "sources": ("near",), "seeds": 1,
             "arms": ARMS, "workers": 1, "out": out}  # fmt: skip
    return Plan(**(usual | changes))


@pytest.fixture(scope="module")
def done(shop: tuple[Path, Params, list[str]]) -> Study:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFTGAN_HOME", str(shop[0] / "home"))
        patch.setenv("GRAFTGAN_CACHE", str(shop[0] / "cache"))
        return run(plan(shop, shop[0] / "out"), StopSignal())


@pytest.fixture(autouse=True)
def places(shop: tuple[Path, Params, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFTGAN_HOME", str(shop[0] / "home"))
    monkeypatch.setenv("GRAFTGAN_CACHE", str(shop[0] / "cache"))


# Arms


def test_what_an_arm_does_not_take_is_fresh_the_average_too() -> None:
    source = build(tiny_spec(), 1)
    Generators = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor]]

    def parts(arm: str) -> Generators:
        found = take(source, arm, 7)
        return copies(found.generator), copies(found.discriminator), copies(found.generator_ema)

    g, d, ema = copies(source.generator), copies(source.discriminator), copies(source.generator_ema)
    for arm, keeps_g, keeps_d in (("both", True, True), ("g_only", True, False), ("d_only", False, True)):
        its_g, its_d, its_ema = parts(arm)
        assert equal(its_g, g) == keeps_g and equal(its_ema, ema) == keeps_g and equal(its_d, d) == keeps_d, (
            arm
        )
    fresh = build(source.spec, 7)
    assert equal(parts("g_only")[1], copies(fresh.discriminator))
    assert equal(parts("d_only")[0], copies(fresh.generator)) and equal(
        parts("d_only")[2], parts("d_only")[0]
    )
    average = take(source, "d_only", 7).generator_ema
    assert not average.training and not any(p.requires_grad for p in average.parameters())
    assert equal(copies(source.generator), g), "the source itself stays"


def test_what_would_compare_unlike_things_is_refused(
    shop: tuple[Path, Params, list[str]], tmp_path: Path
) -> None:
    changes = {
        "finetune.method=freeze_d": "finetune.method",
        "finetune.penalties=[l2_sp]": r"finetune\.penalties=\[l2_sp\] with --arms g_only, d_only, scratch",
        "finetune.prior=gmm": r"finetune\.prior=gmm with --arms g_only, d_only, scratch",
        "finetune.prior=gmm_to_normal": r"finetune\.prior=gmm_to_normal .* --arms",
        "finetune={r1_on_fakes: true, r1_gamma: 0}": "finetune.r1_on_fakes",
    }
    for change, word in changes.items():
        with pytest.raises(ConfigError, match=word):
            check(plan(shop, tmp_path, params=load(None, [*shop[2], change])))
    with pytest.raises(ConfigError, match="same name"):
        check(plan(shop, tmp_path, targets=("a/x.zip", "b/x.parquet")))
    alone = {"arms": ("both",)}
    with pytest.raises(ConfigError, match=r"finetune\.prior=gmm_to_normal .* --arms"):
        moving = load(None, [*shop[2], "finetune.prior=gmm_to_normal"])
        check(plan(shop, tmp_path, params=moving, **alone))
    for change in ("finetune.penalties=[l2_sp]", "finetune.prior=gmm"):
        check(plan(shop, tmp_path, params=load(None, [*shop[2], change]), **alone))
    assert not list(tmp_path.iterdir())


def test_from_both_networks_alone_terms_and_a_mixture_are_in_the_run(
    done: Study, shop: tuple[Path, Params, list[str]], tmp_path: Path
) -> None:
    words = ["finetune.penalties=[l2_sp]", "finetune.l2_sp_weight=1000", "finetune.inversion.epochs=2"]
    plain = next(r for r in done.records if r["arm"] == "both")
    held = load(None, [*shop[2], *words[:2]])
    mixed = load(None, [*shop[2], *words, "finetune.prior=gmm"])
    found = [
        run(plan(shop, tmp_path / name, params=params, arms=("both",)), StopSignal()).records[0]["curve"]
        for name, params in (("held", held), ("mixed", mixed))
    ]
    starts = [curve[0]["kid"] for curve in (plain["curve"], *found)]
    ends = [curve[-1]["kid"] for curve in (plain["curve"], *found)]
    assert starts[0] == starts[1] != starts[2], "the mixture is there from the first look on"
    assert len(set(ends)) == 3


# Measures


def test_displacement_is_the_distance_row_by_row() -> None:
    before = np.array([[0.0, 0.0], [1.0, 1.0]], np.float32)
    assert list(displacement(before, before + np.float32([3, 4]))) == [5, 5]
    assert list(displacement(before, before)) == [0, 0]


def test_the_yardstick_is_the_mean_over_different_rows() -> None:
    points = np.array([[0.0], [1.0], [3.0]])
    assert typical_distance(points) == pytest.approx((1 + 3 + 2) / 3)


class Given:
    """Looks with features that are known."""

    def __init__(self, *features: np.ndarray) -> None:
        self._features = dict(zip((0, 16, 32), features, strict=False))

    def features(self, images: int) -> np.ndarray:
        return self._features[images]


def test_curves_hold_the_measures_of_metrics_and_the_movement_since_the_look_before() -> None:
    draw = np.random.default_rng(0)
    real, first, second = (draw.normal(size=(30, 4)) + shift for shift in (0.0, 0.5, 0.1))
    params = Params()
    start, end = curves(Given(first, second), [0, 16], real, params)  # type: ignore[arg-type]
    assert (start["images"], end["images"]) == (0, 16)
    assert end["kid"] == kid(second, real).value and start["kid_low"] == kid(first, real).low
    k = params.evaluate.recall_neighbours
    assert end["recall"] == recall(real, second, k=k).value
    assert end["precision"] == precision(second, real, k=k).value
    gaps = np.linalg.norm(second - first, axis=1)
    assert end["moved"] == pytest.approx(gaps.mean()) and end["moved_low"] == pytest.approx(
        np.quantile(gaps, 0.1)
    )
    assert "moved" not in start


# A whole study


def test_every_arm_is_run_and_scratch_once(done: Study) -> None:
    assert [(r["source"], r["arm"]) for r in done.records] == [
        ("scratch", "scratch"), ("near", "both"), ("near", "g_only"), ("near", "d_only"),
    ]  # fmt: skip
    for record in done.records:
        assert [look["images"] for look in record["curve"]] == [0, 16, 32, 48]
        measures = {"kid", "precision", "recall", "coverage", "density", "ada_p"}
        assert all(measures <= set(look) for look in record["curve"])
        assert all(look["moved"] > 0 for look in record["curve"][1:])
        assert record["protocol"].startswith("efflite0-128@128") and record["real_distance"] > 0


def test_a_source_that_does_not_fit_the_images_is_left_out_and_named(
    done: Study, shop: tuple[Path, Params, list[str]], tmp_path: Path
) -> None:
    root, _, assignments = shop
    spec = GanSpec.from_dict({"family": "resnet_gan", "resolution": 32, "channels": 1, **SIZES["resnet_gan"]})
    (root / "grey").mkdir()
    save_gan(build(spec, 1), root / "grey")
    entries = yaml.safe_load((root / "catalogue.yaml").read_text())
    sha256 = digest_file(root / "grey" / WEIGHTS)
    (tmp_path / "catalogue.yaml").write_text(
        yaml.safe_dump([
            *({**entry, "path": str(root / entry["path"])} for entry in entries),
            {**entries[0], "name": "grey", "path": str(root / "grey"), "sha256": sha256},
        ])
    )  # fmt: skip
    params = load(None, [*assignments, f"rank.catalogue={tmp_path / 'catalogue.yaml'}"])
    asked = plan(shop, tmp_path / "out", params=params, sources=("near", "grey"), arms=("both",))
    found = run(asked, StopSignal())
    assert [record["source"] for record in found.records] == ["near"]
    why = "grey was left out: it makes 32 px images of 1 channels"
    assert left_out(found) == [{"target": "pictures", "why": why}] and left_out(done) == []
    table, page = transfer_page.write(found, tmp_path)
    assert f"On pictures, {why}." in page.read_text(encoding="utf-8")
    assert transfer_page.make_page(from_parquet(table, asked)) == transfer_page.make_page(found)


def test_starts_are_equal_where_the_generators_are(done: Study) -> None:
    start = {r["arm"]: r["curve"][0]["kid"] for r in done.records}
    assert start["both"] == start["g_only"] and start["d_only"] != start["both"]
    first = {r["arm"]: r["curve"][1]["kid"] for r in done.records}
    assert len(set(first.values())) == 4, "and then all go their own ways"


def test_no_states_are_left_and_nothing_is_done_twice(done: Study) -> None:
    out = done.plan.out
    assert not [p for p in (out / "states").rglob("*") if p.is_file()]
    files = {p: p.stat().st_mtime_ns for p in out.glob("*/units/*.json")}
    assert len(files) == 4
    assert run(done.plan, StopSignal()).records == done.records
    assert {p: p.stat().st_mtime_ns for p in files} == files


def test_another_recipe_has_units_of_its_own(done: Study, shop: tuple[Path, Params, list[str]]) -> None:
    other = plan(shop, done.plan.out, params=load(None, [*shop[2], "finetune.batch=4"]), arms=("both",))
    found = run(other, StopSignal())
    assert len(found.records) == 1 and len(list(done.plan.out.glob("*/units/*.json"))) == 5
    assert found.records[0]["curve"] != done.records[1]["curve"]


def test_a_stopped_study_goes_on_and_ends_the_same(
    done: Study, shop: tuple[Path, Params, list[str]], tmp_path: Path
) -> None:
    root, _, assignments = shop
    words = [sys.executable, "-m", "graftgan", "study", "transfer", "--out", str(tmp_path / "out")]
    words += ["--params", str(root / "none.yaml"), "--targets", str(root / "pictures"), "--sources", "near"]
    words += [word for text in assignments for word in ("--set", text)]
    (root / "none.yaml").write_text("{}\n")
    around = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(words, env=around, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not list((tmp_path / "out").glob("states/*/*/states/*")) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate()
    assert process.returncode == 143, told.decode()
    again = plan(shop, tmp_path / "out")
    assert run(again, StopSignal()).records == done.records


def runs(shop: tuple[Path, Params, list[str]], done: Study, *more: str) -> list[transfer.Run]:
    """The runs of the study that was done, with other parameters."""
    (target,) = done.plan.targets
    other = replace(done.plan, params=load(None, [*shop[2], *more]))
    return transfer.runs_of(other, target, transfer.settings_of(other, target), {"near", "far"})


def test_what_decides_a_result_is_in_the_name_of_its_record(
    done: Study, shop: tuple[Path, Params, list[str]]
) -> None:
    mine = {run.file for run in runs(shop, done)}
    assert mine <= set(done.plan.out.glob("*/units/*.json")) and len(mine) == 4
    for change in ("evaluate.neighbours=7", "evaluate.recall_neighbours=7", "finetune.batch=4"):
        assert not mine & {run.file for run in runs(shop, done, change)}, change
    for change in ("evaluate.samples=20", "runtime.threads=2"):
        assert mine == {run.file for run in runs(shop, done, change)}, change


def test_a_state_of_other_code_is_not_used_and_told_of(
    done: Study,
    shop: tuple[Path, Params, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ctx = Context(tmp_path / "states", tmp_path / "cache", resume="auto")
    one, again = runs(shop, done)[1], runs(shop, done)[1]
    with pytest.raises(KeyboardInterrupt), noted(one.state(ctx), one.note):
        (one.state(ctx) / "states").mkdir(parents=True)
        raise KeyboardInterrupt
    assert again.state(ctx) == one.state(ctx)
    monkeypatch.setattr(transfer, "code_digest", lambda: "other")
    monkeypatch.setattr(transfer.Run, "_curves", lambda self, ctx, folder: {"from": str(folder)})
    other = runs(shop, done)[1]
    assert other.file == one.file and other.state(ctx) != one.state(ctx)
    logging.getLogger("graftgan").addHandler(caplog.handler)
    assert other.work(ctx) == {"from": str(other.state(ctx))}
    logging.getLogger("graftgan").removeHandler(caplog.handler)
    assert "pictures, near-both-0 starts from the beginning" in caplog.text
    assert "the code of the package has changed" in caplog.text
    with pytest.raises(MissingInput, match="the code of the package has changed"):
        other.work(replace(ctx, resume="must"))


# Findings


def record(arm: str, kids: list[float], source: str = "near", seed: int = 0) -> dict[str, Any]:
    looks = [
        {"images": 1000.0 * i, "kid": v, "kid_low": v - 0.01, "kid_high": v + 0.01, "precision": 0.5,
         "recall": 0.1 * i, "coverage": 0.2, "density": 1.0, "ada_p": 0.0} | ({"moved": 4.0 / i} if i else {})
        for i, v in enumerate(kids)
    ]  # fmt: skip
    return {"target": "t", "source": source, "arm": arm, "seed": seed, "protocol": "p", "real_distance": 2.0,
            "rollbacks": 0, "curve": looks}  # fmt: skip


def test_times_to_the_own_best_and_to_that_of_scratch() -> None:
    fast = record("both", [1.0, 0.5, 0.3, 0.2, 0.201])
    slow = record("d_only", [1.0, 0.9, 0.8, 0.7, 0.65])
    none = record("scratch", [1.0, 0.9, 0.8, 0.6, 0.5], "scratch")
    rows = {row.arm: row for row in times([fast, slow, none])}
    assert best_kid(fast) == 0.2 and images_to(fast, 0.5) == 1000 and images_to(slow, 0.5) is None
    assert (rows["both"].cross, rows["both"].reached, rows["both"].own) == (1000, 1, 3000)
    assert (rows["d_only"].cross, rows["d_only"].reached) == (None, 0)
    assert rows["scratch"].cross == 4000
    assert rows["both"].first_move == 2.0 and rows["both"].last_move == 0.5, "over that of two real images"
    assert [row.arm for row in times([slow, none, fast])] == ["both", "scratch", "d_only"]


def test_the_best_does_not_count_the_start() -> None:
    assert best_kid(record("both", [0.1, 0.5, 0.3])) == 0.3


def test_seeds_are_averaged_and_crossings_compared_within_a_seed() -> None:
    runs = [
        record("both", [1.0, 0.4], seed=0), record("both", [1.0, 0.6], seed=1),
        record("scratch", [1.0, 0.5], "scratch", 0), record("scratch", [1.0, 0.5], "scratch", 1),
    ]  # fmt: skip
    rows = {row.arm: row for row in times(runs)}
    assert rows["both"].best == pytest.approx(0.5) and rows["both"].reached == 1 and rows["both"].seeds == 2
    assert averaged(runs[:2])[1]["kid"] == pytest.approx(0.5)


def test_selectors_are_judged_by_the_arm_with_both_networks_and_scratch(done: Study) -> None:
    (draw,) = draws(done)
    assert set(draw.outcomes) == {"near", "scratch"}
    both = next(r for r in done.records if r["arm"] == "both")
    assert draw.outcomes["near"].value == best_kid(both)
    assert draw.rows == done.rankings["pictures"]["rows"]


def test_the_verdict_names_every_target_and_what_is_as_good(done: Study) -> None:
    first = times(done.records)[0]
    rows = [
        replace(first, target=target, source=source, arm="both", best=kid)
        for target, source, kid in (("a", "x", 1.0), ("a", "y", 1.05), ("a", "z", 1.06), ("b", "z", -1.0))
    ]
    assert transfer_page.verdict(rows, []) == (
        "On a the lowest KID, 1.000, is of x (both); within 5% of it: y (both). "
        "On b the lowest KID, -1.000, is of z (both)."
    )


def kids(study: Study, by_arm: dict[str, float]) -> Study:
    """The study, had its looks after the start had the KIDs of `by_arm`."""
    records = [
        {**r, "curve": [r["curve"][0], *(look | {"kid": by_arm[r["arm"]]} for look in r["curve"][1:])]}
        for r in study.records
    ]
    return replace(study, records=records)


def test_a_target_without_a_positive_best_is_named_and_not_judged(done: Study) -> None:
    study = kids(done, {"both": -0.01, "g_only": 1.0, "d_only": 1.0, "scratch": 1.0})
    assert draws(study) == []
    why = not_judged(study)["pictures"]
    assert "the lowest KID, -0.010 of near, is not above 0" in why and not_judged(done) == {}
    assert f"pictures is not judged: {why}." in str(transfer_page.make_page(study))
    table = frame(study)
    assert table.attrs["not_judged"] == [{"target": "pictures", "why": why}]
    assert table.attrs["scorecard"] == [] and len(table.attrs["outcomes"]) == 2


def test_a_single_candidate_is_no_choice(done: Study) -> None:
    study = replace(done, records=[r for r in done.records if r["arm"] != "scratch"])
    assert "needs two candidates" in not_judged(study)["pictures"]
    assert frame(study)["images_to_scratch"].isna().all()


def from_parquet(path: Path, plan: Plan) -> Study:
    """What was found, from the Parquet file alone."""
    table = pd.read_parquet(path)
    records = []
    for _, looks in table.groupby(["target", "source", "arm", "seed"], sort=False):
        first = looks.iloc[0]
        about = {name: first[name] for name in (*ABOUT, "code")}
        curve = looks.drop(columns=[*about, "images_to_scratch"]).to_dict("records")
        records.append({**about, "curve": [{k: v for k, v in look.items() if v == v} for look in curve]})
    rankings: dict[str, Any] = {}
    for row in table.attrs["ranking"]:
        ranking = rankings.setdefault(row["target"], {"n_target": row["n_target"], "rows": []})
        cells = {n: {"value": row[n], **{e: row[f"{n}_{e}"] for e in ("low", "high")}} for n in SELECTORS}
        ranking["rows"].append({**row, "name": row["source"], **cells})
    for ranking in rankings.values():
        ranking["warnings"] = []
    for row in table.attrs["left_out"]:
        rankings[row["target"]]["warnings"].append(row["why"])
    return Study(plan, rankings, records)


def test_the_parquet_alone_makes_the_page_again(done: Study, tmp_path: Path) -> None:
    table, _ = transfer_page.write(done, tmp_path)
    assert transfer_page.make_page(from_parquet(table, done.plan)) == transfer_page.make_page(done)


def test_the_parquet_has_the_scorecard_and_times_to_scratch(done: Study, tmp_path: Path) -> None:
    table = pd.read_parquet(transfer_page.write(done, tmp_path)[0])
    scores, verdicts = scorecard(draws(done))
    assert table.attrs["scorecard"] == [asdict(score) for score in scores]
    choices = pd.DataFrame(table.attrs["choices"])
    assert set(choices.selector) == set(SELECTORS) and set(choices.target) == {"pictures"}
    assert dict(zip(choices.selector, choices.regret, strict=True)) == {
        v.selector: v.regret for v in verdicts
    }
    ranked = {row["name"]: row for row in done.rankings["pictures"]["rows"]}
    for row in table.attrs["ranking"]:
        assert row["recall"] == ranked[row["source"]]["recall"]["value"]
        assert row["kid_high"] == ranked[row["source"]]["kid"]["high"]
    best = {r["arm"]: best_kid(r) for r in done.records}
    for record in done.records:
        its = table[table.arm == record["arm"]]
        (seen,) = set(its.images_to_scratch.fillna(-1.0))
        reached = images_to(record, best["scratch"])
        assert seen == (-1.0 if reached is None else reached)
        assert set(its.real_distance) == {record["real_distance"]} and set(its.rollbacks) == {0}


def test_a_run_that_begins_as_good_as_scratch_ends_took_no_images() -> None:
    runs = [
        record("both", [0.4, 0.4]),
        record("scratch", [1.0, 0.5], "scratch"),
        record("d_only", [1.0, 0.9]),
    ]
    table = frame(Study(Plan(Params(), (), (), 1, ARMS, 1, Path()), {}, runs))
    found = table.groupby("arm").images_to_scratch.first()
    assert found["both"] == 0 and found["scratch"] == 1000 and np.isnan(found["d_only"])


def test_processes_find_what_one_process_finds(
    done: Study, shop: tuple[Path, Params, list[str]], tmp_path: Path
) -> None:
    params = load(None, [*shop[2], "runtime.workers=2"])
    found = run(plan(shop, tmp_path, params=params, workers=2), StopSignal())
    assert found.records == done.records and found.rankings == done.rankings


def test_the_page_and_the_table(done: Study, tmp_path: Path) -> None:
    table, page = transfer_page.write(done, tmp_path)
    assert pd.read_parquet(table).equals(frame(done)) and len(frame(done)) == 16
    text = page.read_text(encoding="utf-8")
    for word in (
        "arms of near",
        "g_only",
        "coverage",
        "efflite0-128@128",
        "Spearman",
        "Recall",
        "within 5 %",
    ):
        assert word in text
    assert text.count("<svg") == 8 and "<script" not in text
    transfer_page.write(done, tmp_path)
    assert page.read_text(encoding="utf-8") == text


def test_the_command_runs_a_whole_tiny_study(
    done: Study, shop: tuple[Path, Params, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _, assignments = shop
    monkeypatch.setattr(commands.StopSignal, "install", lambda self: None)
    (root / "none.yaml").write_text("{}\n")
    words = ["study", "transfer", "--params", str(root / "none.yaml"), "--out", str(done.plan.out)]
    words += ["--targets", str(root / "pictures"), "--sources", "near", "--arms", "both", "--arms", "scratch"]
    words += [word for text in assignments for word in ("--set", text)]
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert (
        "On pictures the lowest KID, " in result.output and "Choices that were right, of 1" in result.output
    )
    assert (done.plan.out / "transfer.html").is_file()
    assert read_json(next(done.plan.out.glob("pictures/units/near-both-*.json")))["arm"] == "both"
    logging.getLogger("graftgan").handlers = []
    assert transfer.ARMS == ARMS
