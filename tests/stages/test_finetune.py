from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

import graftgan
from graftgan.checkpoints.catalogue import SCRATCH
from graftgan.checkpoints.store import SPEC, WEIGHTS, load_gan, save_gan
from graftgan.config import Params
from graftgan.context import Context, NullTracker
from graftgan.contract import Result, digest_file, digest_path, read_json, write_json
from graftgan.data.dataset import SPLITS, content_digest, write_manifest
from graftgan.data.slots import PixelWriter
from graftgan.engine import Job, default_paths, run_job
from graftgan.errors import CheckpointError, ConfigError, DataError, GraftganError
from graftgan.gans.base import build, draw_latents, sample, to_uint8
from graftgan.metrics.features import make_extractor
from graftgan.metrics.kid import paired_kid_difference
from graftgan.params import load
from graftgan.reporting.card import model_card
from graftgan.reporting.facts import Facts, read_facts
from graftgan.reporting.markdown import escape
from graftgan.reporting.provenance import run_table
from graftgan.stages.finetune import COLUMNS, LAST, curves_csv
from graftgan.stages.judging import KidJudge
from graftgan.stages.specs import stage
from graftgan.training.loop import TIMELINE_IMAGES, TIMELINE_SEED, Measurement
from graftgan.transfer.auto import decide
from stages.models import tiny_spec, write_scores

FILES = {
    WEIGHTS, SPEC, LAST, "model.json", "curves.csv", "timeline.png", "timeline.json", "samples.png",
}  # fmt: skip
# 25 steps, looks at 80, 160 and 200 images.
RECIPE = {
    "finetune.budget": "{kimg: 0.2}", "finetune.batch": 8, "finetune.evaluate_every_kimg": 0.08,
    "finetune.validation_samples": 16, "finetune.precision": "fp32", "finetune.r1_interval": 4,
    "finetune.style_mixing": 0.5, "finetune.validation_extractor": "efflite0-128",
    "finetune.scratch": "{z_dim: 8, w_dim: 8, mapping_layers: 1, channel_base: 128, channel_max: 8}",
    "runtime.device": "cpu", "runtime.threads": 1, "runtime.workers": 1, "track.mode": "off",
}  # fmt: skip
QUICK = {"finetune.budget": "{kimg: 0.016}", "finetune.controls": "[]"}


def soft_pictures(count: int, seed: int, channels: int = 3) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, channels), dtype=np.uint8)
    return np.repeat(np.repeat(small, 8, axis=1), 8, axis=2)


def write_set(
    folder: Path, channels: int = 3, labels: int = 0, missing: dict[str, str] | None = None, **counts: int
) -> None:
    """Write a packed set as prepare does."""
    sizes = {"train": 24, "validation": 10, "test": 4, **counts}
    splits = [name for name in SPLITS for _ in range(sizes.get(name, 0))]
    images = soft_pictures(len(splits), 5, channels)
    folder.mkdir(parents=True)
    with PixelWriter(folder / "images.npy", 32, channels) as writer:
        for image in images:
            writer.append(image)
    rows = np.arange(len(splits), dtype=np.int32)
    none = np.full(len(splits), -1, np.int32)
    manifest = pd.DataFrame(
        {
            "row": rows, "name": [f"{i:03}.png" for i in rows], "split": splits,
            "label": rows % labels if labels else none,
            "sha256": [hashlib.sha256(image.tobytes()).hexdigest() for image in images],
            "width": np.full_like(rows, 32), "height": np.full_like(rows, 32), "mode": "RGB", "group": "",
            "phash": "00", "duplicate_of": none, "near_group": none, "blank": False,
        }
    )  # fmt: skip
    names = [f"kind {i}" for i in range(labels)]
    facts = {
        "digest": content_digest(manifest, 32, channels, names), "source": "set.zip", "images": len(splits),
        "splits": {name: splits.count(name) for name in SPLITS}, "resolution": 32, "channels": channels,
        "labels": names, "missing": missing or {}, "licence": "CC0-1.0",
    }  # fmt: skip
    write_manifest(folder, manifest, facts)


@dataclass
class Workshop:
    """A folder with an image set, a ranking and a catalogue, and the stage run on them."""

    root: Path
    warnings: list[str] = field(default_factory=list)

    def furnish(self, **dataset: Any) -> Workshop:
        write_set(self.out / "prepare" / "dataset", **dataset)
        self.rank("near", "far")
        entries = [self.source(name, seed) for seed, name in enumerate(("near", "far"), 1)]
        (self.root / "catalogue.yaml").write_text(yaml.safe_dump(entries))
        return self

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def models(self) -> Path:
        return self.out / "finetune" / "models"

    def source(self, name: str, seed: int, **spec: Any) -> dict[str, Any]:
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        save_gan(build(tiny_spec(**spec), seed), folder)
        sha256 = digest_file(folder / WEIGHTS)
        return {"name": name, "path": name, "sha256": sha256, "resolution": 32, "title": f"The {name} one",
                "licence": "CC0-1.0"}  # fmt: skip

    def rank(self, chosen: str, worst: str | None) -> None:
        folder = self.out / "rank" / "ranking"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "ranking.json", {"choice": {"name": chosen, "why": "it"}, "worst": worst})

    def assignments(self, **changes: Any) -> list[str]:
        settings = {**RECIPE, "rank.catalogue": str(self.root / "catalogue.yaml")}
        settings |= {key.replace("__", "."): value for key, value in changes.items()}
        return [f"{key}={value}" for key, value in settings.items()]

    def job(self, **changes: Any) -> Job:
        params: Params = load(None, self.assignments(**changes))
        return Job(stage("finetune"), params, *default_paths(stage("finetune"), self.out))

    def run(self, resume: str = "auto", **changes: Any) -> tuple[Result, bool]:
        def context(state: Path) -> Context:
            log = logging.getLogger("graftgan")
            return Context(state, self.root / "cache", log, resume=resume)

        return run_job(self.job(**changes), context)

    def report(self, run: str = "chosen") -> dict[str, Any]:
        return dict(read_json(self.models / run / "model.json"))

    def fails(self, kind: type[GraftganError], text: str, **changes: Any) -> GraftganError:
        with pytest.raises(kind, match=text) as error:
            self.run(**{**quick(), **changes})
        assert not self.models.exists()
        return error.value


def quick(**changes: Any) -> dict[str, Any]:
    return {key.replace(".", "__"): value for key, value in QUICK.items()} | changes


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workshop, Result]]:
    """One whole run of three arms, one after another."""
    workshop = Workshop(tmp_path_factory.mktemp("finetune")).furnish()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFTGAN_HOME", str(workshop.root / "home"))
        result, ran = workshop.run()
        assert ran
        yield workshop, result


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    return Workshop(tmp_path).furnish()


def home(workshop: Workshop) -> Path:
    return Path(os.environ["GRAFTGAN_HOME"])


# One whole run


def test_every_arm_has_its_folder_and_every_folder_its_files(base: tuple[Workshop, Result]) -> None:
    workshop, result = base
    assert sorted(p.name for p in workshop.models.iterdir()) == ["chosen", "scratch", "worst"]
    for run in workshop.models.iterdir():
        assert {p.name for p in run.iterdir()} == FILES
    assert result.outputs["models"].digest == digest_path(workshop.models)
    assert set(result.metrics) == {
        f"{name}_{run}"
        for name in ("kid_validation", "images_seen")
        for run in ("chosen", "worst", "scratch")
    }
    assert result.warnings == ()
    assert not list((workshop.root / "home" / "state").glob("finetune-*"))


@pytest.mark.parametrize("run", ["chosen", "worst", "scratch"])
def test_the_model_tells_where_it_comes_from(base: tuple[Workshop, Result], run: str) -> None:
    workshop, result = base
    report = workshop.report(run)
    name = {"chosen": "near", "worst": "far", "scratch": None}[run]
    sha256 = digest_file(workshop.root / name / WEIGHTS) if name else None
    spec = tiny_spec() if name else tiny_spec(channel_base=128, mbstd_group=4, label_layers=8)
    expected = {
        "run": run, "source": name, "source_sha256": sha256, "seed": 0,
        "method": "full" if name else "scratch",
        "source_licence": "CC0-1.0" if name else None, "source_title": f"The {name} one" if name else None,
        "spec": spec.to_dict(), "prior": {"kind": "normal"}, "images_total": 200, "precision": "fp32",
        "dataset": read_json(workshop.out / "prepare" / "dataset" / "dataset.json")["digest"], "warnings": [],
        "preprocessing": {"resolution": 32, "channels": 3, "range": [-1.0, 1.0]}, "added_parameters": 0,
    }  # fmt: skip
    assert {key: report[key] for key in expected} == expected
    assert report["protocol"] == make_extractor("efflite0-128").protocol
    assert report["images_seen"] == report["best"]["images_seen"] in (80, 160, 200)
    assert report["best"]["low"] < report["best"]["kid"] < report["best"]["high"]
    assert result.metrics[f"kid_validation_{run}"] == report["best"]["kid"]
    assert result.metrics[f"images_seen_{run}"] == report["images_seen"]
    assert read_json(workshop.models / run / SPEC) == report["spec"]
    generator = load_gan(workshop.models / run).generator
    assert report["stored_bytes"] == 4 * sum(t.numel() for t in generator.state_dict().values())


def test_the_best_model_is_the_one_that_was_measured(base: tuple[Workshop, Result]) -> None:
    workshop, _ = base
    data = np.load(workshop.out / "prepare" / "dataset" / "images.npy")
    extractor = make_extractor("efflite0-128")
    judge = KidJudge(extractor(data[24:34]), extractor, 16, 0)
    for run in ("chosen", "scratch"):
        best = judge.measure(load_gan(workshop.models / run).generator_ema)
        assert best.value == pytest.approx(workshop.report(run)["best"]["kid"], rel=1e-4)


def test_curves_have_the_columns_and_a_row_a_look(base: tuple[Workshop, Result]) -> None:
    workshop, _ = base
    for run in ("chosen", "worst", "scratch"):
        text = (workshop.models / run / "curves.csv").read_text()
        rows = list(csv.DictReader(text.splitlines()))
        assert tuple(rows[0]) == COLUMNS
        assert [row["images_seen"] for row in rows] == ["80", "160", "200"]
        assert all(float(row["loss_d"]) > 0 and float(row["grad_norm_g"]) > 0 for row in rows)
        assert all(row["path_length"] == "" for row in rows)
        report = workshop.report(run)
        (best,) = [row for row in rows if int(row["images_seen"]) == report["images_seen"]]
        assert float(best["kid_validation"]) == report["best"]["kid"]
        assert "\r" not in text


def test_pictures_show_the_best_and_its_way(base: tuple[Workshop, Result]) -> None:
    workshop, _ = base
    for run in ("chosen", "scratch"):
        folder = workshop.models / run
        assert read_json(folder / "timeline.json") == {
            "images_seen": [80, 160, 200],
            "columns": TIMELINE_IMAGES,
        }
        with Image.open(folder / "timeline.png") as timeline, Image.open(folder / "samples.png") as samples:
            assert timeline.width > timeline.height
            assert samples.width == samples.height
            cell = samples.width // 8
            shown = np.asarray(samples)[: 2 * cell, : 2 * cell]
        best = sample(load_gan(folder).generator_ema, 1, 0)[0]
        # The first picture, enlarged by a whole number, is somewhere in the upper left corner.
        colours = {tuple(c) for c in best.reshape(-1, 3).tolist()}
        assert len(colours - {tuple(c) for c in shown.reshape(-1, 3).tolist()}) == 0


def test_the_last_model_is_kept_beside_the_best(base: tuple[Workshop, Result]) -> None:
    workshop, _ = base
    folder = workshop.models / "chosen"
    last = load_gan(folder, LAST)
    z, _ = draw_latents(last.spec, TIMELINE_IMAGES, torch.Generator().manual_seed(TIMELINE_SEED))
    with torch.no_grad():
        frames = to_uint8(last.generator_ema(z, None, 1.0, "const"))
    with Image.open(folder / "timeline.png") as timeline:
        bottom = {tuple(c) for c in np.asarray(timeline)[-timeline.height // 3 :].reshape(-1, 3).tolist()}
    assert not {tuple(c) for c in frames.reshape(-1, 3).tolist()} - bottom
    if workshop.report()["images_seen"] == 200:
        assert (folder / LAST).read_bytes() == (folder / WEIGHTS).read_bytes()


def test_adaptation_keeps_the_networks_of_the_source_near(base: tuple[Workshop, Result]) -> None:
    workshop, _ = base
    source, adapted = load_gan(workshop.root / "near"), load_gan(workshop.models / "chosen", LAST)
    for name, weight in source.discriminator.named_parameters():
        assert float((adapted.discriminator.get_parameter(name) - weight).detach().abs().max()) < 0.2, name


def test_an_equal_run_is_not_done_again(base: tuple[Workshop, Result]) -> None:
    workshop, result = base
    again, ran = workshop.run(runtime__workers=2, runtime__save_every_s=5)
    assert not ran
    assert again == result


# Processes and signals


def test_processes_of_their_own_give_the_same_bytes(
    base: tuple[Workshop, Result], workshop: Workshop
) -> None:
    _, ran = workshop.run(finetune__controls="[scratch]", runtime__workers=2)
    assert ran
    for run in ("chosen", "scratch"):
        assert digest_path(workshop.models / run) == digest_path(base[0].models / run)


def test_a_profile_changes_no_byte_and_lies_beside(
    base: tuple[Workshop, Result], workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    folder = workshop.root / "profile"
    caplog.set_level(logging.INFO, "graftgan")
    _, ran = workshop.run(finetune__controls="[scratch]", runtime__profile=folder)
    assert ran
    for run in ("chosen", "scratch"):
        assert digest_path(workshop.models / run) == digest_path(base[0].models / run)
        told = read_json(folder / f"{run}.json")
        assert told["steps"] == 25
        # R1 comes every four steps, so the second one is the fourth's; on either side of it one more.
        assert told["traced_steps"] == 3
        phases = {row["phase"]: row for row in told["phases"]}
        assert {"data", "R1", "evaluation", "saving"} <= phases.keys()
        assert told["precision"] == "fp32"
        assert (folder / f"{run}.md").is_file() and (folder / f"{run}.trace.json").is_file()
        assert f"{run}: getting images takes {told['data_share']:.2%} of a step" in caplog.text


def test_the_run_tells_the_tracker_how_it_computed(workshop: Workshop) -> None:
    tags: dict[str, str] = {}

    class Tags(NullTracker):
        def set_tags(self, values: Any) -> None:
            tags.update(values)

    job = workshop.job(**quick())
    run_job(job, lambda state: Context(state, workshop.root / "cache", tracker=Tags()))
    assert tags["graftgan.precision"] == "fp32"
    assert tags["graftgan.compile"] == tags["graftgan.cuda_graphs"] == "no"
    assert (tags["graftgan.device"], tags["graftgan.adam"]) == ("cpu", "fused")


def test_how_each_run_computed_is_beside_the_results_and_not_among_them(
    base: tuple[Workshop, Result],
) -> None:
    result = base[0].job(**quick()).outputs["result"]
    told = read_json(result.with_name("run.json"))["switches"]
    assert told.keys() == {path.name for path in base[0].models.iterdir()}
    for choices in told.values():
        assert choices["memory_format"] == "channels_last" and choices["images"] == "host"
        assert (choices["precision"], choices["threads"]) == ("fp32", "1")
        assert choices["torch"] == torch.__version__
        assert choices["isa"] == torch.backends.cpu.get_cpu_capability()
    written = [result, *base[0].models.rglob("*.json")]
    assert not any("memory_format" in path.read_text() for path in written)


def interim_states(home: Path) -> list[Path]:
    return list(home.glob("state/finetune-*/*/interim/images-*"))


def test_a_sigterm_in_the_middle_exits_143_and_the_next_start_ends_with_the_same_bytes(
    base: tuple[Workshop, Result], workshop: Workshop
) -> None:
    controls = "[scratch]"
    changes = {"finetune__controls": controls, "runtime__workers": 2, "runtime__save_every_s": 1e-6}
    settings = [word for text in workshop.assignments(**changes) for word in ("--set", text)]
    (workshop.root / "params.yaml").write_text("{}\n")
    command = [sys.executable, "-m", "graftgan", "finetune", "--params", "params.yaml", *settings]
    roots = {"PYTHONPATH": str(Path(graftgan.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=workshop.root, env={**os.environ, **roots}, stderr=subprocess.PIPE
    ) as child:
        deadline = time.monotonic() + 240
        while not interim_states(home(workshop)) and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=240)
    assert child.returncode == 143, errors.decode()
    assert not workshop.models.exists()
    assert not list(workshop.out.glob("finetune/.*"))
    saved = [p for p in home(workshop).glob("state/finetune-*/*/**/images-*") if p.name[-3:] != "000"]
    assert saved
    _, ran = workshop.run(finetune__controls=controls)
    assert ran
    for run in ("chosen", "scratch"):
        assert digest_path(workshop.models / run) == digest_path(base[0].models / run)
    assert not list(home(workshop).glob("state/finetune-*"))


@pytest.mark.nightly
def test_what_was_trained_before_a_kill_is_not_trained_again(
    base: tuple[Workshop, Result], workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graftgan.stages import finetune

    real = finetune.write_arm

    def killed(arm: Any, *rest: Any) -> dict[str, Any]:
        if arm.run == "scratch":
            raise KeyboardInterrupt
        return real(arm, *rest)

    monkeypatch.setattr(finetune, "write_arm", killed)
    with pytest.raises(KeyboardInterrupt):
        workshop.run(finetune__controls="[scratch]")
    monkeypatch.setattr(finetune, "write_arm", real)
    monkeypatch.setattr(finetune.Trainer, "step", lambda trainer: pytest.fail("it trained again"))
    workshop.run(resume="must", finetune__controls="[scratch]")
    for run in ("chosen", "scratch"):
        assert digest_path(workshop.models / run) == digest_path(base[0].models / run)


# What is run


@pytest.mark.parametrize(
    ("chosen", "worst", "controls", "runs"),
    [
        ("near", "near", "[worst]", {"chosen": "near"}),
        pytest.param(
            "near", None, "[worst, scratch]", {"chosen": "near", "scratch": None}, marks=pytest.mark.nightly
        ),
        (SCRATCH, "far", "[worst, scratch]", {"chosen": None, "worst": "far"}),
    ],
)
def test_no_run_is_made_twice(
    workshop: Workshop, chosen: str, worst: str | None, controls: str, runs: dict[str, str | None]
) -> None:
    workshop.rank(chosen, worst)
    workshop.run(**quick(finetune__controls=controls, finetune__method="freeze_d"))
    assert {p.name: workshop.report(p.name)["source"] for p in workshop.models.iterdir()} == runs
    for run, source in runs.items():
        assert workshop.report(run)["method"] == ("scratch" if source is None else "freeze_d")


def test_freeze_d_keeps_the_sources_layers(workshop: Workshop) -> None:
    workshop.run(**quick(finetune__method="freeze_d", finetune__freeze_d_layers=4))
    source, adapted = load_gan(workshop.root / "near"), load_gan(workshop.models / "chosen")
    assert workshop.report()["method"] == "freeze_d"
    for name, weight in source.discriminator.named_parameters():
        kept = torch.equal(adapted.discriminator.get_parameter(name), weight)
        assert kept is name.startswith("b32."), name


@pytest.mark.parametrize("channels", [pytest.param(1, marks=pytest.mark.nightly), 4])
def test_grey_and_rgba_sets_are_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    workshop = Workshop(tmp_path).furnish(channels=channels)
    workshop.rank(SCRATCH, None)
    workshop.run(**quick())
    report = workshop.report()
    assert report["preprocessing"]["channels"] == report["spec"]["channels"] == channels
    with Image.open(workshop.models / "chosen" / "timeline.png") as timeline:
        timeline.verify()


def test_a_source_with_classes_learns_from_labelled_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    workshop = Workshop(tmp_path).furnish(labels=3)
    (tmp_path / "catalogue.yaml").write_text(yaml.safe_dump([workshop.source("near", 1, classes=3)]))
    workshop.run(**quick())
    assert workshop.report()["spec"]["classes"] == 3


def test_without_validation_images_training_images_choose_and_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    workshop = Workshop(tmp_path).furnish(validation=0, missing={"validation": "too few images"})
    result, _ = workshop.run(**quick())
    (warning,) = workshop.report()["warnings"]
    assert warning == "the checkpoint was chosen on training images: too few images"
    assert result.warnings == (f"chosen: {warning}",)


def test_rollbacks_are_told(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    from graftgan.training.trainer import Trainer

    real, seen = Trainer.finite, []

    def once(trainer: Trainer) -> bool:
        seen.append(trainer.images_seen)
        return real(trainer) and len(seen) > 1

    monkeypatch.setattr(Trainer, "finite", once)
    result, _ = workshop.run(**quick())
    assert workshop.report()["warnings"] == ["training diverged 1 times; learning rates ended x 0.5"]
    assert result.warnings[0].startswith("chosen: training diverged")


# What is refused


def test_a_changed_source_is_refused(workshop: Workshop) -> None:
    save_gan(build(tiny_spec(), 99), workshop.root / "near")
    workshop.fails(CheckpointError, "near.*sha256")


def test_a_source_that_left_the_catalogue_is_refused(workshop: Workshop) -> None:
    workshop.rank("gone", None)
    workshop.fails(ConfigError, "'gone' is not in")


@pytest.mark.parametrize(
    ("name", "key", "adapted", "added"),
    [("adafm", {"low_level_from_px": 16}, r"synthesis\.b(16|32)\.conv\d\.weight", 4 * 2 * 8 * 8),
     ("lora", {"adapter_rank": 2}, r"synthesis\.b\d+\.conv\d\.weight", 7 * 2 * (8 + 8 * 9))],
)  # fmt: skip
def test_adapters_are_folded_into_a_plain_folder(
    workshop: Workshop, name: str, key: dict[str, int], adapted: str, added: int
) -> None:
    workshop.run(**quick(finetune__method=name, **{f"finetune__{k}": value for k, value in key.items()}))
    report = workshop.report()
    source = load_gan(workshop.root / "near")
    assert (report["method"], report["added_parameters"]) == (name, added)
    assert report["stored_bytes"] == 4 * sum(t.numel() for t in source.generator.state_dict().values())
    for weights in (WEIGHTS, LAST):
        plain = load_gan(workshop.models / "chosen", weights)
        for parameter, weight in source.generator.named_parameters():
            same = torch.equal(plain.generator.get_parameter(parameter), weight)
            if re.fullmatch(adapted, parameter):
                assert not same, parameter
            elif name == "lora" or re.match(r"synthesis\.b(16|32)", parameter):
                assert same, parameter


def test_an_unknown_method_is_refused(workshop: Workshop) -> None:
    workshop.fails(ConfigError, "'freeze' is not a method", finetune__method="freeze")


def test_auto_takes_a_method_and_says_why(workshop: Workshop) -> None:
    result, _ = workshop.run(**quick(finetune__method="auto", finetune__controls="[worst, scratch]"))
    taken = decide(24, ["stylegan2"])
    why = f"for 24 training images: {taken.why}"
    said = f"finetune.method: auto took {taken.method} {why}"
    assert result.warnings[0] == said and len([text for text in result.warnings if "auto" in text]) == 1
    for run in ("chosen", "worst"):
        report = workshop.report(run)
        assert (report["method"], report["method_asked"], report["method_why"]) == (taken.method, "auto", why)
    assert not {"method_asked", "method_why"} & set(workshop.report("scratch"))
    facts, card = shown(workshop)
    assert facts.warnings().count(said) == 1
    assert dict(run_table(facts))["Method"] == [f"{taken.method} (taken by auto)"] * 2 + ["scratch"]
    assert escape(said) in card.split("## Method")[1].split("##")[0]


def shown(workshop: Workshop) -> tuple[Facts, str]:
    """Return what the report reads of a run, and its model card."""
    dataset = read_json(workshop.out / "prepare" / "dataset" / "dataset.json")
    write_scores(workshop.out / "scores", dataset["digest"])
    ranking = {"choice": {"name": "near", "why": "it"}, "worst": "far", "rows": [], "protocol": "p"}
    write_json(workshop.out / "rank" / "ranking" / "ranking.json", ranking)
    write_json(workshop.out / "data" / "dataset.json", {**dataset, "expectations": {}})
    folders = {"ranking": workshop.out / "rank" / "ranking", "models": workshop.models}
    facts = read_facts({**folders, "dataset": workshop.out / "data", "scores": workshop.out / "scores"})
    return facts, model_card("faces", facts.chosen.model, facts.dataset, facts.scores, "ef" * 32)


def test_a_named_method_leaves_no_word_of_auto(base: tuple[Workshop, Result]) -> None:
    workshop, _ = base
    for run in ("chosen", "worst", "scratch"):
        assert not {"method_asked", "method_why"} & set(workshop.report(run))


@pytest.mark.usefixtures("rules")
def test_auto_runs_to_the_end_where_the_best_method_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    workshop = Workshop(tmp_path).furnish(train=320)
    held = load_file(tmp_path / "near" / WEIGHTS)
    held = {name: tensor for name, tensor in held.items() if not name.startswith("discriminator.")}
    save_file(held, tmp_path / "near" / WEIGHTS)
    entries = yaml.safe_load((tmp_path / "catalogue.yaml").read_text())
    entries[0]["sha256"] = digest_file(tmp_path / "near" / WEIGHTS)
    (tmp_path / "catalogue.yaml").write_text(yaml.safe_dump(entries))
    workshop.run(**quick(finetune__method="auto", finetune__fresh_discriminator="true"))
    report = workshop.report()
    assert report["method"] == "adafm"
    assert "gan_memory did better" in report["method_why"] and "modulate_d" in report["method_why"]


def test_from_scratch_what_has_no_effect_is_said(workshop: Workshop) -> None:
    workshop.rank(SCRATCH, "far")
    result, _ = workshop.run(**quick(finetune__method="auto", finetune__penalties="[cdc]"))
    report = workshop.report()
    assert report["method"] == "scratch" and "method_asked" not in report
    (said,) = report["warnings"]
    assert said.startswith("finetune.method=auto, finetune.penalties=[cdc]: no effect on this run")
    assert result.warnings == (f"chosen: {said}",)
    facts, card = shown(workshop)
    assert any(text.endswith(said) for text in facts.warnings())
    assert escape(said) in card.split("## Limits")[1]


def test_a_hint_is_a_warning_of_the_chosen_run(workshop: Workshop) -> None:
    changes = {"finetune__method": "filter_transfer", "finetune__controls": "[worst]"}
    result, _ = workshop.run(**quick(**changes))
    (said,) = workshop.report()["warnings"]
    assert "finetune.low_level_d_from_px is 32" in said and "rule of thumb for 24 images" in said
    assert result.warnings == (f"chosen: {said}",) and workshop.report("worst")["warnings"] == []
    assert any(text.endswith(said) for text in shown(workshop)[0].warnings())


def test_one_image_is_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    Workshop(tmp_path).furnish(train=1).fails(DataError, "there are 1 training images")


def test_a_run_that_diverges_leaves_nothing_behind(workshop: Workshop) -> None:
    error = workshop.fails(
        GraftganError, "chosen diverged", finetune__lr_generator=1e12, finetune__lr_discriminator=1e12
    )
    assert error.exit_code == 1


# The judge and the curves


def fixed(features: np.ndarray) -> Measurement:
    return Measurement(0.0, 0.0, 0.0, torch.from_numpy(features))


def test_the_judge_asks_for_more_than_one_standard_error() -> None:
    rng = np.random.default_rng(0)
    real = rng.normal(size=(60, 8)).astype(np.float32)
    far = (rng.normal(size=(40, 8)) + 0.6).astype(np.float32)
    judge = KidJudge(real, make_extractor("efflite0-128"), 40, 0)
    answers = {}
    for share in (0.0, 0.01, 0.5):
        nearer = (far - 0.6 * share).astype(np.float32)
        difference = paired_kid_difference(nearer, far, real)
        answers[share] = judge.improves(fixed(nearer), fixed(far))
        assert answers[share] is bool(difference.value < -difference.stderr)
        assert not judge.improves(fixed(far), fixed(nearer))
    assert answers[0.5]
    assert not answers[0.0]


def test_curves_leave_cells_empty_and_write_plain_decimals() -> None:
    rows = [{"images_seen": 32.0, "loss_g": 1e-7, "ada_p": 0.0}, {"images_seen": 1e6, "kid_low": -0.25}]
    lines = curves_csv(rows).splitlines()
    assert lines[0] == ",".join(COLUMNS)
    first, second = (dict(zip(COLUMNS, line.split(","), strict=True)) for line in lines[1:])
    assert (first["images_seen"], first["loss_g"], first["ada_p"], first["kid_low"]) == (
        "32",
        "0.0000001",
        "0",
        "",
    )
    assert (second["images_seen"], second["kid_low"]) == ("1000000", "-0.25")
    assert json.loads(first["loss_g"]) == 1e-7
