"""`benchmarks/methods.py`: its rows can be run, and its intervals compare what can be compared."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import ttest_1samp
from stages.test_finetune import Workshop

from graftgan.checkpoints.catalogue import Catalogue
from graftgan.config import Params
from graftgan.context import Context, StopSignal
from graftgan.contract import read_json, write_json
from graftgan.stages.finetune import Arm
from graftgan.stages.prior import check_prior
from graftgan.transfer import METHODS, check_family
from graftgan.transfer.combinations import check_settings
from graftgan.transfer.rehearsal import check_networks
from scripts import loaded

methods: Any = loaded("methods")
tables: Any = loaded("methods_tables")
ROOT = Path(__file__).parents[2]
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


ROWS = [(family, name) for family in methods.FAMILIES for name in methods.FAMILIES[family].variants]


def settings_of(family: str, name: str, images: int = 25, kimg: float = 3.0) -> Params:
    draw, keys = methods.Draw("micah", images, 0), methods.FAMILIES[family].keys(name)
    params: Params = methods.draw_settings(draw, kimg, *keys)
    return params


@pytest.mark.parametrize(("family", "name"), ROWS)
@pytest.mark.parametrize("images", [25, 1000])
def test_every_row_can_be_run_from_its_sources(family: str, name: str, images: int) -> None:
    params = settings_of(family, name, images)
    check_settings(params.finetune)
    check_prior(params.finetune, images)
    catalogue = Catalogue(params.rank.catalogue, ROOT)
    assert {catalogue.spec(source, ROOT).family for source in catalogue.sources} == {family}
    check_family(params.finetune.method, family, "any")


@pytest.mark.parametrize(("family", "name"), ROWS)
def test_every_row_goes_with_the_networks_of_a_source(family: str, name: str) -> None:
    params = settings_of(family, name)
    catalogue = Catalogue(params.rank.catalogue, ROOT)
    source = catalogue.sources[0]
    check_networks(params.finetune, catalogue.spec(source, ROOT), False, source.name)


def test_every_method_is_a_row_of_one_of_the_tables() -> None:
    measured = {settings_of(*row).finetune.method for row in ROWS}
    assert measured == set(METHODS)


@pytest.mark.parametrize("family", methods.FAMILIES)
def test_rows_differ_and_have_folders_of_their_own(family: str) -> None:
    variants = methods.FAMILIES[family].variants
    assert len(set(variants.values())) == len(variants) and variants["full"] == ()
    assert {settings_of(family, name).finetune.budget.kimg for name in variants} == {3.0}
    folders = {name.replace(",", "").replace(" ", "-") for name in variants}
    assert len(folders) == len(variants) and all(re.fullmatch(r"[\w-]+", folder) for folder in folders)


def test_with_a_fixed_g_the_miner_alone_moves() -> None:
    fixed = settings_of("stylegan2", "minegan, fixed G").finetune
    assert fixed.method == "minegan" and fixed.minegan.joint_from is None


@pytest.mark.parametrize(
    ("row", "objective"),
    [("class_embedding, discriminator", "discriminator"), ("class_embedding, mmd", "mmd")],
)
def test_a_class_is_tuned_by_what_does_not_judge(row: str, objective: str) -> None:
    params = settings_of("biggan", row)
    section = params.finetune.class_embedding
    assert (section.use, section.objective) == ("repurpose", objective)
    assert params.evaluate.extractor == section.judge == methods.EXTRACTOR
    judges = {section.judge, params.finetune.validation_extractor}
    assert objective == "discriminator" or section.features not in judges
    assert objective == "mmd" or section.alpha == 0.0, "diversity is of features, too"


@pytest.mark.parametrize(("family", "key"), [("biggan", "class_sources"), ("resnet_gan", "residual_sources")])
def test_rows_of_an_only_source_have_its_learning_rates(family: str, key: str) -> None:
    (recipe,) = yaml.safe_load((ROOT / "zoo" / "recipes.yaml").read_text())[key]
    assert methods.FAMILIES[family].source == recipe["name"]
    for name in methods.FAMILIES[family].variants:
        settings = settings_of(family, name).finetune
        for rate in ("lr_generator", "lr_discriminator", "r1_gamma"):
            assert getattr(settings, rate) == recipe["training"][rate], (name, rate)


@pytest.mark.parametrize(("family", "count"), [("stylegan2", 3), ("resnet_gan", 2)])
def test_priors_share_their_inversion_and_its_seconds(family: str, count: int) -> None:
    withs = [settings_of(family, name).finetune for name in methods.FAMILIES[family].variants]
    priors = [settings for settings in withs if settings.prior != "normal"]
    assert len(priors) == count
    assert all(s.inversion == priors[0].inversion and s.seed == priors[0].seed for s in priors)


def test_pairs_tell_apart_what_unlike_targets_hide() -> None:
    best, full = tables.summarise(runs())
    assert (best["method"], full["method"]) == ("other", "full")
    assert full["ratio"] == full["ratio_low"] == full["ratio_high"] == 1.0
    assert best["ratio_low"] < best["ratio"] < best["ratio_high"] < 1.0
    assert best["high"] > full["low"], "the plain intervals overlap"
    interval = ttest_1samp(np.log(SHARES), 0.0).confidence_interval(0.95)
    assert (best["ratio_low"], best["ratio_high"]) == pytest.approx(tuple(np.exp(interval)))


def test_of_one_draw_the_interval_is_that_of_the_images() -> None:
    run, full = record(0.9), record(1.0)
    ratio, low, high = tables.ratio_interval([(run, full)])
    assert ratio == pytest.approx(0.9)
    assert np.log(high / low) == pytest.approx(2 * 1.96 * 0.01 * 2**0.5)


def test_runs_of_another_budget_have_files_of_their_own(tmp_path: Path) -> None:
    family, kimg = methods.FAMILIES["stylegan2"], 24.0
    found = {("full", draw): run | {"protocol": "p"} for draw, run in runs()["full"].items()}
    assert family.files(methods.KIMG) == "methods"
    ledger = methods.Ledger(tmp_path / f"{family.files(kimg)}-runs.csv", {}, kimg, "near")
    methods.tabulate(found, ledger, family)
    assert {file.stem for file in tmp_path.iterdir()} == {"methods-24kimg", "methods-24kimg-ratios"}


def test_the_table_has_a_line_a_method() -> None:
    results = {"kimg": 3.0, "source": "near", "protocol": "p", "images": {25: tables.summarise(runs())}}
    head, _, first, second = tables.table(results).splitlines()[-4:]
    assert first.startswith("| other |") and second.startswith("| full |")
    assert {line.count("|") for line in (head, first, second)} == {10}
    assert "| 0.90 | 0.88 to 0.92 |" in first
    assert "| 0.500 | 0.00 | 2 | 0 |" in first


def test_the_table_of_the_documents_marks_what_is_clearly_better() -> None:
    few, many = (tables.summarise(found) for found in (runs(), {"full": runs()["full"]}))
    lines = tables.ratios({"images": {25: few, 1000: many}}).splitlines()
    assert lines[0] == "| row | 25 images | 1,000 images | stored KB |"
    mean = re.fullmatch(r"\| other \| \*\*0\.90\*\* \((.+) to (.+)\) \| – \| 0 \|", lines[2])
    assert mean is not None and float(mean[1]) < 0.9 < float(mean[2]) < 1
    assert lines[4] == (
        "Draws (target and seed) of `full`: 25 images: easy 0, easy 1, hard 0, hard 1; "
        "1,000 images: easy 0, easy 1, hard 0, hard 1."
    )


def test_seconds_that_are_not_known_are_a_dash_and_left_out_of_means() -> None:
    found = runs()
    for run in found["other"].values():
        run["cpu_s"] = None
    next(iter(found["full"].values()))["cpu_s"] = None
    other, full = tables.summarise(found)
    assert other["cpu_s"] is None and full["cpu_s"] == 2.0
    results = {"kimg": 3.0, "source": "near", "protocol": "p", "images": {25: [other, full]}}
    assert [line.split(" | ")[7] for line in tables.table(results).splitlines()[-2:]] == ["–", "2"]


TINY = {
    "finetune__prior": "gmm", "finetune__inversion__epochs": 3, "finetune__inversion__batch": 10,
    "finetune__budget": "{kimg: 0.016}", "finetune__controls": "[]", "evaluate__samples": 16,
    "evaluate__extractor": "efflite0-128",
}  # fmt: skip


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    return Workshop(tmp_path).furnish(test=12)


def arm(workshop: Workshop, name: str, **changes: Any) -> Arm:
    params = workshop.job(**(TINY | changes)).params
    return Arm(name, "near", params, workshop.out / "prepare" / "dataset", workshop.root / "runs" / name)


def test_every_prior_is_told_with_its_inversion_whoever_made_it(workshop: Workshop) -> None:
    ctx = Context(state=workshop.root / "states", cache=workshop.root / "cache")
    first, second = (methods.adapt(arm(workshop, name), ctx) for name in ("gmm", "again"))
    assert first["inversion_s"] == second["inversion_s"] > 0
    assert len(list((ctx.cache / "inversions").glob("*.safetensors"))) == 1
    for run in (first, second):
        assert run["cpu_s"] > run["inversion_s"]
    plain = methods.adapt(arm(workshop, "plain", finetune__prior="normal"), ctx)
    assert plain["inversion_s"] == 0.0 < plain["cpu_s"]
    # As an earlier version left them: whether the inversion is in the seconds cannot be told.
    for name in ("gmm", "plain"):
        file = workshop.root / "runs" / name / "benchmark.json"
        old = {key: value for key, value in read_json(file).items() if key != "inversion_s"}
        write_json(file, old)
        before = file.read_bytes()
        prior = "normal" if name == "plain" else "gmm"
        found = methods.adapt(arm(workshop, name, finetune__prior=prior), ctx)
        assert found == old | {"cpu_s": old["cpu_s"] if name == "plain" else None}
        assert file.read_bytes() == before


def test_an_inversion_from_elsewhere_leaves_the_seconds_unknown(workshop: Workshop) -> None:
    cache = workshop.root / "cache"
    there, here = (Context(state=workshop.root / name, cache=cache) for name in ("there", "here"))
    assert methods.inversion_seconds(arm(workshop, "gmm"), there) > 0
    assert methods.inversion_seconds(arm(workshop, "gmm"), here) is None


@pytest.mark.nightly
def test_a_row_with_classes_from_the_shipped_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    small = ("evaluate.samples=32", "finetune.validation_samples=16", "rank.samples=40",
             "finetune.class_embedding.report_samples=8")  # fmt: skip
    family = methods.FAMILIES["biggan"]
    family = replace(family, recipe=(*family.recipe, *small))
    tuned_row = "class_embedding, discriminator"
    given = (methods.Draw("micah", 25, 0), ["full", tuned_row], 0.064, family.source, tmp_path)
    arms = methods.arms_of(*given, StopSignal(), family)
    assert {one.source for one in arms} == {"groups"}
    ctx = Context(state=tmp_path / "states", cache=tmp_path / "cache")
    full, tuned = (methods.adapt(one, ctx) for one in arms)
    assert full["protocol"] == tuned["protocol"] and full["cpu_s"] > 0 and tuned["cpu_s"] > 0
    assert tuned["stored_bytes"] < full["stored_bytes"] / 10, "one row of the table"
    by_draw = {name: {given[0]: run} for name, run in (("full", full), (tuned_row, tuned))}
    rows = tables.summarise(by_draw)
    assert {row["method"] for row in rows} == {"full", tuned_row}
