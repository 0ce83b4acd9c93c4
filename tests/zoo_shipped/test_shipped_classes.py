"""The source with classes is ill where it was made so, and what `classes diagnose` says of it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from graftgan.checkpoints.store import load_gan
from graftgan.classes import Diagnosis, with_findings
from graftgan.cli import cli
from graftgan.context import StopSignal
from graftgan.engine import Job, default_paths
from graftgan.gans.base import sample
from graftgan.metrics.class_diversity import Spread
from graftgan.params import load
from graftgan.runner import run_stage
from graftgan.stages.specs import stage

ROOT = Path(__file__).parents[2]
GROUPS = ROOT / "zoo" / "groups"
CLASSES = [one["data"] for one in json.loads((GROUPS / "card.json").read_text())["data"]["classes"]]
NARROW, BIASED = CLASSES.index("personas"), CLASSES.index("big-smile")
GREEN = (0x2A, 0x8F, 0x84)
"""The hair that the biased class saw alone (zoo/recipes.yaml)."""


def pictures(name: str, count: int) -> list[Image.Image]:
    """Evenly chosen images of a shipped set, at 32 px."""
    column = pq.read_table(ROOT / "data" / f"{name}.parquet", columns=["image"])["image"]
    chosen = np.linspace(0, len(column) - 1, count).astype(int)
    opened = (Image.open(io.BytesIO(column[int(i)].as_py())).convert("RGB") for i in chosen)
    return [image.resize((32, 32), Image.Resampling.BOX) for image in opened]


def green(images: np.ndarray) -> float:
    """Share of the images of which a twelfth or so has that colour, as the class was chosen by."""
    near = np.linalg.norm(images.astype(np.float64) - np.array(GREEN), axis=-1) < 60
    return float((near.mean(axis=(1, 2)) >= 0.08).mean())


def test_the_biased_class_shows_one_kind_of_its_images() -> None:
    generator = load_gan(GROUPS).generator_ema
    assert green(sample(generator, 32, 0, labels=BIASED)) > 0.9
    assert green(np.stack([np.asarray(image) for image in pictures("big-smile", 100)])) < 0.2
    for healthy in ("toon-head", "open-peeps", "lorelei"):
        assert green(sample(generator, 8, 0, labels=CLASSES.index(healthy))) == 0


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the command says of all classes, each beside images of its own set."""
    folder = tmp_path_factory.mktemp("groups")
    for label, name in enumerate(CLASSES):
        (folder / "images" / f"{label}-{name}").mkdir(parents=True)
        for number, image in enumerate(pictures(name, 40)):
            image.save(folder / "images" / f"{label}-{name}" / f"{number:02}.png")
    params = load(None, [f"data.path={folder / 'images'}", "data.resolution=32", "track.mode=off"])
    inputs, outputs = default_paths(stage("prepare"), folder / "out")
    run_stage(Job(stage("prepare"), params, inputs, outputs), StopSignal())
    result = CliRunner().invoke(
        cli, ["classes", "diagnose", str(GROUPS), "--dataset", str(outputs["dataset"]), "--json"]
    )
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.output)["classes"]
    return found


def without_images(one: dict[str, Any]) -> Diagnosis:
    unseen = {"real_share": None, "density": None, "coverage": None, "spread": Spread(**one["spread"])}
    return Diagnosis(**{**one, **unseen})


@pytest.mark.nightly
def test_the_class_of_four_pictures_is_found_and_no_other(diagnosed: list[dict[str, Any]]) -> None:
    found = with_findings([without_images(one) for one in diagnosed])
    assert {one.name for one in found if "collapsed" in one.findings} == {"personas"}
    assert not any("narrow" in one.findings for one in found)
    assert min(diagnosed, key=lambda one: one["share"])["id"] == NARROW
    assert min(diagnosed, key=lambda one: one["real_share"])["id"] == NARROW


@pytest.mark.nightly
def test_the_biased_class_is_flagged_beside_its_images_only(diagnosed: list[dict[str, Any]]) -> None:
    assert not {"narrow", "collapsed"} & set(
        with_findings([without_images(one) for one in diagnosed])[BIASED].findings
    )
    assert "misses images" in diagnosed[BIASED]["findings"]
    assert diagnosed[BIASED]["coverage"] < 0.25
