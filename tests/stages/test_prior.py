"""finetune under a prior, and what all later readers of the model make of it."""

from __future__ import annotations

import csv
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image

from graftgan.checkpoints.catalogue import SCRATCH, Catalogue
from graftgan.checkpoints.convert import describe, export_checkpoint, read_checkpoint
from graftgan.checkpoints.store import WEIGHTS, load_gan, read_tensors
from graftgan.config import Finetune
from graftgan.context import Context, StopSignal
from graftgan.contract import Result, digest_file, digest_path, read_json
from graftgan.data.dataset import ImageSet
from graftgan.engine import run_job
from graftgan.errors import ConfigError, Interrupted
from graftgan.gans.base import sample
from graftgan.gans.prior import Mixture
from graftgan.metrics.features import make_extractor
from graftgan.packages import load_package, write_package
from graftgan.sampling import open_generator
from graftgan.stages import prior as prior_stage
from graftgan.stages.finetune import LAST
from graftgan.stages.judging import KidJudge
from graftgan.stages.prior import INVERTING, PAIRS, REPORT, check_prior, inversion_file, schedule_of
from graftgan.stages.start import starting_point
from graftgan.transfer.inversion import Inverted
from stages.test_finetune import FILES, Workshop, quick

PRIOR = {"finetune__inversion__epochs": 3, "finetune__inversion__lr": 0.05, "finetune__inversion__batch": 10}
MOVING = {"finetune__prior": "gmm_to_normal", **PRIOR}
FIXED = {"finetune__prior": "gmm", **PRIOR}


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workshop, Result]]:
    """A whole run whose prior moves, with the scratch control beside it."""
    workshop = Workshop(tmp_path_factory.mktemp("moved")).furnish()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFTGAN_HOME", str(workshop.root / "home"))
        result, _ = workshop.run(**MOVING, finetune__controls="[scratch]")
        yield workshop, result


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """A run whose prior stays, by the real command."""
    workshop = Workshop(tmp_path_factory.mktemp("fixed")).furnish()
    (workshop.root / "params.yaml").write_text("{}\n")
    settings = workshop.assignments(**quick(**FIXED))
    command = [sys.executable, "-m", "graftgan", "finetune", "--params", "params.yaml", "--out", "out"]
    command += [word for setting in settings for word in ("--set", setting)]
    environment = {**os.environ, "GRAFTGAN_HOME": str(workshop.root / "home")}
    done = subprocess.run(
        command, cwd=workshop.root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    yield workshop


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    return Workshop(tmp_path).furnish()


def prior_of(folder: Path, weights: str = WEIGHTS) -> Mixture | None:
    prior = load_gan(folder, weights).prior
    assert prior is None or isinstance(prior, Mixture)
    return prior


# The run


def test_an_adapted_run_brings_its_inversion_and_the_control_none(moved: tuple[Workshop, Result]) -> None:
    workshop, _ = moved
    assert {p.name for p in (workshop.models / "chosen").iterdir()} == FILES | {REPORT, PAIRS}
    assert {p.name for p in (workshop.models / "scratch").iterdir()} == FILES
    assert workshop.report("scratch")["prior"] == {"kind": "normal"}
    assert not any(name.startswith("prior.") for name in read_tensors(workshop.models / "scratch" / WEIGHTS))


def test_the_report_tells_of_every_image_and_of_the_mixture(moved: tuple[Workshop, Result]) -> None:
    workshop, result = moved
    report = read_json(workshop.models / "chosen" / REPORT)
    errors = report["mse_per_image"]
    assert len(errors) == 24
    assert [entry["mse"] for entry in report["worst"]] == sorted(errors, reverse=True)
    assert report["mse"] == pytest.approx(np.mean(errors))
    assert report["gain"] == pytest.approx(report["mse_nearest_random"] / report["mse"])
    assert 0 < report["squared_norm_per_dimension"] < 5
    mixture = report["mixture"]
    assert mixture["components"] == mixture["wanted"] == 3
    assert sum(mixture["weights"]) == pytest.approx(1)
    assert len(mixture["effective_ranks"]) == 3
    # Three steps from random latents come nowhere near the images, and the run says so.
    assert report["gain"] < 1.5
    warnings = [text for text in workshop.report()["warnings"] if "nearer than random samples" in text]
    assert warnings
    assert f"chosen: {warnings[0]}" in result.warnings


def test_the_picture_shows_images_beside_their_latents_worst_first(moved: tuple[Workshop, Result]) -> None:
    workshop, _ = moved
    report = read_json(workshop.models / "chosen" / REPORT)
    images = np.load(workshop.out / "prepare" / "dataset" / "images.npy")
    (file,) = (workshop.root / "cache").glob("inversions/*.safetensors")
    inverted = Inverted.of_tensors(read_tensors(file))
    with torch.no_grad():
        made = load_gan(workshop.root / "near").generator.eval()(inverted.latents, None, 1.0, "const")
    worst = report["worst"][0]["row"]
    expected = float(((images[worst] / 127.5 - 1 - made[worst].permute(1, 2, 0).numpy()) ** 2).mean())
    assert report["worst"][0]["mse"] == pytest.approx(expected, rel=1e-3)
    with Image.open(workshop.models / "chosen" / PAIRS) as picture:
        # 64 px cells, each of a 32 px image doubled, from the first gap on.
        first = np.asarray(picture)[2:66:2, 2:66:2]
    assert np.array_equal(first, images[worst])


def test_lambda_is_in_the_curves_and_ends_at_one(moved: tuple[Workshop, Result]) -> None:
    workshop, _ = moved
    rows = list(csv.DictReader((workshop.models / "chosen" / "curves.csv").read_text().splitlines()))
    assert [float(row["prior_lambda"]) for row in rows] == pytest.approx([0.4, 0.8, 1.0])
    scratch = (workshop.models / "scratch" / "curves.csv").read_text()
    assert "prior" not in scratch


def test_best_and_last_have_the_prior_of_their_time(moved: tuple[Workshop, Result]) -> None:
    workshop, _ = moved
    folder, report = workshop.models / "chosen", workshop.report()
    at = report["images_seen"] / 200
    assert report["prior"] == {"kind": "gmm_to_normal", "lambda": pytest.approx(at), "schedule": "linear"}
    best = prior_of(folder)
    assert (best is None) == (at == 1)
    assert best is None or best.position == pytest.approx(at)
    # At the end the law is N(0, I), which needs no tensors.
    assert not any(name.startswith("prior.") for name in read_tensors(folder / LAST))
    assert prior_of(folder, LAST) is None


def test_the_best_model_is_what_was_measured_under_its_prior(fixed: Workshop) -> None:
    data = np.load(fixed.out / "prepare" / "dataset" / "images.npy")
    extractor = make_extractor("efflite0-128")
    judge = KidJudge(extractor(data[24:34]), extractor, 16, 0)
    generator = load_gan(fixed.models / "chosen").generator_ema
    kid = fixed.report()["best"]["kid"]
    assert judge.measure(generator).value == pytest.approx(kid, rel=1e-4)
    generator.prior = None
    assert judge.measure(generator).value != pytest.approx(kid, rel=1e-2)


def test_a_stopped_run_goes_on_to_the_same_bytes(
    moved: tuple[Workshop, Result], workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graftgan.stages import finetune

    def killed(trainer: Any) -> None:
        if trainer.images_seen == 120:
            raise KeyboardInterrupt
        step(trainer)

    step = finetune.Trainer.step
    monkeypatch.setattr(finetune.Trainer, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        workshop.run(**MOVING, finetune__controls="[]")
    monkeypatch.setattr(finetune.Trainer, "step", step)
    workshop.run(resume="must", **MOVING, finetune__controls="[]")
    assert digest_path(workshop.models / "chosen") == digest_path(moved[0].models / "chosen")


def test_a_run_stopped_in_its_inversion_goes_on_there_to_the_same_bytes(
    moved: tuple[Workshop, Result], workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graftgan.transfer.inversion import RowAdam

    steps, at, stop = [0], 4, StopSignal()

    def context(state: Path) -> Context:
        return Context(state, workshop.root / "cache", logging.getLogger("graftgan"), stop=stop)

    def counted(adam: RowAdam, *rest: Any) -> None:
        step(adam, *rest)
        steps[-1] += 1
        if steps == [at]:
            stop.requested = True

    step = RowAdam.step
    monkeypatch.setattr(RowAdam, "step", counted)
    changes = {**MOVING, "finetune__controls": "[scratch]"}
    with pytest.raises(Interrupted, match="inversion stopped at"):
        run_job(workshop.job(**changes), context)
    steps.append(0)
    workshop.run(resume="must", **changes)
    # Three epochs of three batches.
    assert steps == [at, 9 - at]
    for run in ("chosen", "scratch"):
        assert digest_path(workshop.models / run) == digest_path(moved[0].models / run)
    assert not list((workshop.root / "home").glob("state/finetune-*"))


def test_other_training_settings_find_the_inversion_again(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.run(**quick(**FIXED))
    monkeypatch.setattr("graftgan.stages.prior.invert", lambda *_: pytest.fail("it inverted again"))
    workshop.run(**quick(**FIXED, finetune__lr_generator=0.001))


def flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[-2] ^= 4
    file.write_bytes(raw)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


@pytest.mark.parametrize("damage", [flip, cut])
def test_a_kept_inversion_that_is_damaged_is_told_of_and_made_again(
    workshop: Workshop, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    workshop.run(**quick(**FIXED))
    before = digest_path(workshop.models / "chosen")
    (file,) = (workshop.root / "cache").glob("inversions/*.safetensors")
    whole = file.read_bytes()
    damage(file)
    shutil.rmtree(workshop.models)
    with caplog.at_level(logging.WARNING, "graftgan"):
        workshop.run(**quick(**FIXED))
    assert "is damaged and is made again" in caplog.text
    assert file.read_bytes() == whole and digest_path(workshop.models / "chosen") == before


def test_an_inversion_of_other_code_or_of_other_networks_is_not_taken(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ImageSet.open(workshop.out / "prepare" / "dataset")
    params = workshop.job(**quick(**FIXED)).params
    start = starting_point("near", data, params, workshop.root / "cache")

    def file() -> str:
        return inversion_file(start, data, params, workshop.root / "cache").name

    first = file()
    assert file() == first
    parts: list[str] = []

    def other(*given: str) -> str:
        parts.extend(given)
        return "other"

    with monkeypatch.context() as patch:
        patch.setattr(prior_stage, "code_digest", other)
        assert file() != first
    assert tuple(parts) == INVERTING
    next(start.gan.generator.parameters()).data.add_(1.0)
    assert file() != first


def test_an_inversion_that_cannot_be_kept_stops_nothing(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    (workshop.root / "cache").mkdir(exist_ok=True)
    (workshop.root / "cache" / "inversions").write_text("no folder can be made here")
    with caplog.at_level(logging.WARNING, "graftgan"):
        workshop.run(**quick(**FIXED))
    assert "is not kept for other runs" in caplog.text
    assert not list((workshop.root / "home").glob("state/finetune-*"))


def test_a_learnt_class_embedding_is_what_training_starts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    workshop = Workshop(tmp_path).furnish()
    (tmp_path / "catalogue.yaml").write_text(yaml.safe_dump([workshop.source("near", 1, classes=3)]))
    tiny = {"finetune__lr_generator": 1e-9, "finetune__lr_discriminator": 1e-9}
    workshop.run(**quick(**FIXED, **tiny, finetune__inversion__learn_class="true"))
    report = read_json(workshop.models / "chosen" / REPORT)
    assert report["learnt"] == ["mapping.embed.weight"]
    (file,) = (tmp_path / "cache").glob("inversions/*.safetensors")
    learnt = Inverted.of_tensors(read_tensors(file)).learnt["mapping.embed.weight"]
    source = load_gan(tmp_path / "near").generator.get_parameter("mapping.embed.weight").mean(1, keepdim=True)
    kept = load_gan(workshop.models / "chosen").generator_ema.get_parameter("mapping.embed.weight")
    torch.testing.assert_close(kept, learnt, rtol=0, atol=1e-5)
    assert float((kept - source).detach().abs().max()) > 0.01


def test_without_classes_there_is_nothing_to_learn_and_it_is_told(workshop: Workshop) -> None:
    workshop.run(**quick(**FIXED, finetune__inversion__learn_class="true"))
    assert [text for text in workshop.report()["warnings"] if "learn_class has no effect" in text]


def test_a_scratch_run_alone_ignores_the_prior(workshop: Workshop) -> None:
    workshop.rank(SCRATCH, None)
    workshop.run(**quick(**FIXED))
    assert workshop.report()["prior"] == {"kind": "normal"}
    assert not (workshop.models / "chosen" / REPORT).exists()


# Readers of the model


def test_everything_that_samples_uses_the_prior(fixed: Workshop, tmp_path: Path) -> None:
    folder = fixed.models / "chosen"
    gan = load_gan(folder)
    mine = sample(gan.generator_ema, 4, 0)
    assert np.array_equal(sample(open_generator(folder).eval(), 4, 0), mine)
    gan.prior = None
    assert not np.array_equal(sample(gan.generator_ema, 4, 0), mine)
    (tmp_path / "package").mkdir()
    facts = {"spec": gan.spec.to_dict(), "truncation_default": 1.0, "prior": fixed.report()["prior"]}
    write_package(folder, tmp_path / "package", facts, "# card\n")
    assert np.array_equal(load_package(tmp_path / "package").sample(4, 0), mine)
    assert np.array_equal(sample(open_generator(tmp_path / "package"), 4, 0), mine)


def test_a_model_with_a_prior_is_a_source_like_any_other(fixed: Workshop, workshop: Workshop) -> None:
    entry = {**fixed.source("again", 9), "path": str(fixed.models / "chosen")}
    entry["sha256"] = digest_file(fixed.models / "chosen" / WEIGHTS)
    (workshop.root / "catalogue.yaml").write_text(yaml.safe_dump([entry]))
    catalogue = Catalogue(workshop.root / "catalogue.yaml")
    (source,) = catalogue.select(["again"])
    loaded = catalogue.load(source, workshop.root / "cache")
    mine = sample(load_gan(fixed.models / "chosen").generator_ema, 3, 0)
    assert np.array_equal(sample(loaded.generator_ema, 3, 0), mine)
    # Adapting it begins with N(0, I), unless a prior is asked for.
    workshop.rank("again", None)
    workshop.run(**quick())
    assert workshop.report()["prior"] == {"kind": "normal"}
    assert prior_of(workshop.models / "chosen") is None


def torchscript(file: Path, z: np.ndarray) -> np.ndarray:
    return np.asarray(torch.jit.load(str(file))(torch.from_numpy(z)).numpy())


def onnx(file: Path, z: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"z": z})[0])


@pytest.mark.parametrize(("kind", "computes"), [("torchscript", torchscript), ("onnx", onnx)])
def test_exports_bring_the_prior_beside_them(
    fixed: Workshop, tmp_path: Path, kind: str, computes: Callable[[Path, np.ndarray], np.ndarray]
) -> None:
    """What is drawn by the note, in numpy, is what the model itself draws."""
    folder = fixed.models / "chosen"
    law, file = prior_of(folder), tmp_path / "new" / "model"
    assert law is not None
    notes = export_checkpoint(folder, kind, file)
    assert "model.prior.npz" in notes[-1] and law.recipe in notes[-1]
    held = np.load(tmp_path / "new" / "model.prior.npz")
    assert float(held["lambda"]) == law.position == 0.0
    # The recipe, in numpy.
    rng = torch.Generator().manual_seed(3)
    e = torch.randn(law.z_dim, generator=rng).numpy()
    level = float(torch.rand((), generator=rng, dtype=torch.float64))
    j = int(np.searchsorted(np.cumsum(held["weights"]), level))
    z = held["means"][j] + held["eigenvectors"][j] @ (np.sqrt(held["eigenvalues"][j]) * e)
    np.testing.assert_allclose(law.draw_one(torch.Generator().manual_seed(3)), z, rtol=1e-4, atol=1e-5)
    drawn = computes(file, z[None].astype(np.float32))[0].transpose(1, 2, 0)
    mine = sample(load_gan(folder).generator_ema, 1, 3)[0]
    assert np.abs(np.clip(drawn * 127.5 + 128, 0, 255) - mine).max() < 1.1
    # Of a model without a law there is none beside it, whatever lay there.
    assert len(export_checkpoint(fixed.root / "near", kind, file)) == len(notes) - 1
    assert [path.name for path in file.parent.iterdir()] == ["model"]


def test_an_export_that_fails_leaves_no_prior(fixed: Workshop, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        export_checkpoint(fixed.models / "chosen", "cyclegan", tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_a_safetensors_export_holds_the_prior_and_says_so(fixed: Workshop, tmp_path: Path) -> None:
    export_checkpoint(fixed.models / "chosen", "safetensors", tmp_path / "model.safetensors")
    assert not list(tmp_path.glob("*.npz"))
    again = read_checkpoint(tmp_path / "model.safetensors")
    assert {n for n in again.tensors if n.startswith("prior.")} == {
        f"prior.{part}" for part in ("weights", "means", "eigenvectors", "eigenvalues", "lambda")
    }
    assert "mixture of 3 Gaussians" in describe(tmp_path / "model.safetensors")


# What is refused


def settings(**changes: Any) -> Finetune:
    return Finetune.model_validate({"prior": "gmm", **changes})


@pytest.mark.parametrize(
    ("changes", "images", "keys"),
    [
        ({"mixture": {"components": 9}}, 8, ("finetune.mixture.components", "finetune.prior")),
        ({}, 2, ("finetune.mixture.components", "finetune.prior")),
        (
            {"method": "bsa"},
            None,
            ("finetune.prior=gmm", "finetune.method=bsa"),
        ),
        (
            {"method": "lora", "inversion": {"learn_class": True}},
            100,
            ("finetune.inversion.learn_class", "finetune.method=lora"),
        ),
    ],
)
def test_what_cannot_go_together_is_refused_with_both_keys(
    changes: dict[str, Any], images: int | None, keys: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as error:
        check_prior(settings(**changes), images)
    assert all(key in error.value.message for key in keys)
    assert error.value.remedy
    check_prior(settings(**{**changes, "prior": "normal"}), images)


def test_it_is_refused_before_any_source_is_loaded(workshop: Workshop) -> None:
    workshop.rank("nowhere", None)
    workshop.fails(ConfigError, "finetune.mixture.components", **FIXED, finetune__mixture__components=25)


def test_a_fixed_mixture_is_not_called_moving() -> None:
    assert schedule_of(Finetune(prior="gmm")) == "fixed"
    assert schedule_of(Finetune(prior="gmm_to_normal")) == "linear"
