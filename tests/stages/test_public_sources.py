"""Sources of every family, and files of other projects, through rank and finetune."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from training.test_families import SIZES

from graftgan.checkpoints.convert import export_checkpoint
from graftgan.checkpoints.store import WEIGHTS, load_gan, save_gan
from graftgan.context import Context
from graftgan.contract import digest_file, read_json
from graftgan.engine import Job, default_paths, run_job
from graftgan.errors import ConfigError
from graftgan.gans.base import build
from graftgan.gans.spec import GanSpec
from graftgan.params import load
from graftgan.stages.specs import stage
from stages.models import tiny_spec
from stages.test_finetune import Workshop, quick

QUICK_RANK = {"rank.samples": 16, "rank.neighbours": 2}


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    return Workshop(tmp_path).furnish()


def shelve(workshop: Workshop, *entries: dict[str, Any]) -> None:
    (workshop.root / "catalogue.yaml").write_text(yaml.safe_dump(list(entries)))


def of_family(workshop: Workshop, family: str, **sizes: Any) -> dict[str, Any]:
    """Store a fresh source of a family and return its entry."""
    folder = workshop.root / family
    folder.mkdir()
    gan = build(GanSpec.from_dict({"family": family, "resolution": 32, **SIZES[family], **sizes}), seed=1)
    save_gan(gan, folder)
    name = family.replace("_", "-")
    return {"name": name, "path": family, "sha256": digest_file(folder / WEIGHTS), "resolution": 32}


def public(workshop: Workshop, resolution: int) -> dict[str, Any]:
    """Store a StyleGAN2 as rosinality's project writes it and return its entry."""
    folder, file = workshop.root / "plain", workshop.root / "faces.pt"
    folder.mkdir()
    save_gan(build(tiny_spec(resolution=resolution, mapping_layers=2), seed=2), folder)
    export_checkpoint(folder, "rosinality", file)
    entry = {"name": "faces", "path": file.name, "format": "public", "sha256": digest_file(file)}
    return {**entry, "resolution": resolution}


def rank(workshop: Workshop) -> dict[str, Any]:
    assignments = [*workshop.assignments(), *(f"{key}={value}" for key, value in QUICK_RANK.items())]
    job = Job(stage("rank"), load(None, assignments), *default_paths(stage("rank"), workshop.out))
    run_job(job, lambda state: Context(state, workshop.root / "cache", logging.getLogger("graftgan")))
    return dict(read_json(workshop.out / "rank" / "ranking" / "ranking.json"))


@pytest.mark.parametrize("family", SIZES)
def test_a_source_of_every_family_is_adapted(workshop: Workshop, family: str) -> None:
    entry = of_family(workshop, family)
    shelve(workshop, entry)
    workshop.rank(entry["name"], None)
    workshop.run(**quick(finetune__style_mixing=0))
    report = workshop.report()
    assert report["source"] == entry["name"] and report["spec"]["family"] == family
    assert load_gan(workshop.models / "chosen").spec.family == family


def test_families_are_ranked_side_by_side(workshop: Workshop) -> None:
    shelve(workshop, of_family(workshop, "resnet_gan"), of_family(workshop, "biggan"), public(workshop, 64))
    rows = {row["name"]: row for row in rank(workshop)["rows"]}
    assert set(rows) == {"resnet-gan", "biggan", "faces", "scratch"}
    assert rows["faces"]["resolution"] == 64
    assert all(0.0 <= row["recall"]["value"] <= 1.0 for row in rows.values())


def test_a_public_file_of_larger_images_is_cut_and_the_model_says_so(workshop: Workshop) -> None:
    shelve(workshop, public(workshop, 64))
    workshop.rank("faces", None)
    workshop.run(**quick(finetune__style_mixing=0))
    report = workshop.report()
    assert report["spec"]["resolution"] == 32
    assert any("cut to 32 px" in text for text in report["warnings"])


def test_a_family_that_cannot_be_cut_is_refused_for_images_of_another_kind(workshop: Workshop) -> None:
    entry = of_family(workshop, "resnet_gan", channels=1)
    shelve(workshop, entry)
    workshop.rank(entry["name"], None)
    error = workshop.fails(ConfigError, "32 px images of 1 channels, the data are 32 px of 3")
    assert "data.channels=1" in error.remedy
