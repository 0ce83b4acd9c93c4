"""Builds the shipped source checkpoints from the shipped image sets with the project's own trainer.

`python zoo/build.py train [NAME ...]` trains what is missing and resumes what was interrupted;
`python zoo/build.py finish` writes cards, scores, sample sheets and the catalogue.
"""

from __future__ import annotations

import argparse
import io
import itertools
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image

from graftgan.checkpoints.store import WEIGHTS, load_gan, save_gan
from graftgan.config import Budget, Evaluate, Finetune
from graftgan.context import Context, StopSignal
from graftgan.contract import (
    atomic_path,
    canonical_json,
    digest_file,
    digest_text,
    write_json,
    write_text,
)
from graftgan.gans.base import Gan, Generator, build, parameter_count, sample
from graftgan.gans.spec import GanSpec
from graftgan.metrics.features import make_extractor
from graftgan.metrics.scores import ScoreSettings, evaluate_features, metric_name
from graftgan.reporting.sheets import save_png, sheet
from graftgan.training.ada_controller import AdaControllerConfig
from graftgan.training.augment import make_augment
from graftgan.training.loop import Loop, Measurement
from graftgan.training.state import StateStore
from graftgan.training.trainer import Trainer
from graftgan.transfer.penalties import make_penalties

ZOO = Path(__file__).resolve().parent
DATA = ZOO.parent / "data"
STATES = ZOO.parent / ".graftgan" / "zoo"
SCORED_IMAGES = 500
CARD_SCORES = ("fd", "kid", "precision", "recall", "density", "coverage")
SHEET_SEED = 0
# A snapshot lies on the way to the whole run, whose learning rates are still constant there.
SNAPSHOT = {"lr_cooldown": 0.0}
COLOUR_DISTANCE = 60.0
CLASS_IMAGES = 2000
CATALOGUES = {
    "catalogue.yaml": "sources",
    "classes.yaml": "class_sources",
    "residual.yaml": "residual_sources",
}
HEADS = {
    "catalogue.yaml": "# Add your own: the `path` of a folder (gan.safetensors, spec.json) or a `url`, "
    "and its sha256.\n",
    "classes.yaml": "# Sources with classes, for finetune.method=class_embedding: "
    "set rank.catalogue to this file.\n",
    "residual.yaml": "# Residual GANs, the networks that filter transfer's small head is for: "
    "set rank.catalogue to this file.\n",
}


class KeepLast:
    """A judge for runs that are not chosen by a score: every later checkpoint is better."""

    def measure(self, generator: Generator) -> Measurement:
        """Measure nothing."""
        return Measurement(0.0, 0.0, 0.0, torch.zeros(1))

    def improves(self, new: Measurement, best: Measurement) -> bool:
        """Prefer the later checkpoint."""
        return True


def images_of(recipe: dict[str, Any], resolution: int) -> NDArray[np.uint8]:
    """Return a recipe's part of its shipped set as uint8 [N, R, R, 3], averaged down exactly.

    `match` is a pattern that names must contain, `images` the most that are used.
    """
    table = pq.read_table(DATA / f"{recipe['data']}.parquet", columns=["name", "image"]).to_pydict()
    wanted = re.compile(recipe.get("match", ""))
    blobs = [b for n, b in zip(table["name"], table["image"], strict=True) if wanted.search(n)]
    blobs = blobs[: recipe.get("images")]
    size = (resolution, resolution)
    return np.stack(
        [
            np.asarray(Image.open(io.BytesIO(b)).convert("RGB").resize(size, Image.Resampling.BOX))
            for b in blobs
        ]
    )


def near(images: NDArray[np.uint8], colour: str, share: float) -> NDArray[np.uint8]:
    """Return those images of which at least a share of pixels lies near a colour, given as `#rrggbb`."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float64)
    close = np.linalg.norm(images - wanted, axis=-1) < COLOUR_DISTANCE
    return images[close.mean(axis=(1, 2)) >= share]


def pictures(recipe: dict[str, Any], resolution: int) -> tuple[NDArray[np.uint8], NDArray[np.int32] | None]:
    """Return the images of a recipe and, with classes, the class id of each; classes are equally frequent."""
    if "classes" not in recipe:
        return images_of(recipe, resolution), None
    sets = []
    for one in recipe["classes"]:
        images = images_of(one, resolution)
        images = near(images, one["near"], one["share"]) if "near" in one else images
        # A class of few images is seen as often as the others, or nothing of it would be learnt.
        sets.append(images[np.arange(CLASS_IMAGES) % len(images)])
    labels = np.repeat(np.arange(len(sets), dtype=np.int32), CLASS_IMAGES)
    return np.concatenate(sets), labels


def spec_of(recipe: dict[str, Any], recipes: dict[str, Any]) -> GanSpec:
    """Return the networks of a recipe."""
    own = recipe.get("network", {})
    sizes = own if "family" in own else {"family": "stylegan2", **recipes["network"], **own}
    return GanSpec.from_dict({**sizes, "classes": len(recipe.get("classes", ()))})


def train(recipe: dict[str, Any], recipes: dict[str, Any]) -> None:
    """Train one source to the end and store it, with the early snapshots it is asked for."""
    stages = {**recipe.get("snapshots", {}), recipe["name"]: recipe["kimg"]}
    spec = spec_of(recipe, recipes)
    images, labels = pictures(recipe, spec.resolution)
    # A recipe that was changed starts anew; how long it trains is no change.
    what = {**recipes["training"], **recipe, "network": spec.to_dict(), "kimg": None, "snapshots": None}
    states = STATES / f"{recipe['name']}-{digest_text(canonical_json(what))[:12]}"
    for name, kimg in sorted(stages.items(), key=lambda item: item[1]):
        if (ZOO / name / WEIGHTS).is_file():
            continue
        steady = {} if name == recipe["name"] else SNAPSHOT
        settings = Finetune(
            **{**recipes["training"], **recipe.get("training", {}), **steady},
            budget=Budget(kimg=kimg),
            evaluate_every_kimg=10.0,
            seed=recipe.get("seed", 0),
        )
        ada = AdaControllerConfig(
            target=settings.ada_target, speed_kimg=settings.ada_speed_kimg, p_max=settings.ada_p_max
        )
        trainer = Trainer(
            build(spec, settings.seed), images, labels, settings, make_augment(settings.augment, ada=ada),
            torch.device("cpu"), from_scratch=True,
        )  # fmt: skip
        trainer.add_penalties(make_penalties(settings))
        stop = StopSignal()
        stop.install()
        ctx = Context(state=STATES, cache=STATES, stop=stop)
        Loop(name, trainer, KeepLast(), StateStore(states), ctx, save_every_s=120).run()
        with atomic_path(ZOO / name) as folder:
            folder.mkdir()
            save_gan(trainer.gan, folder)


def scores_of(gan: Gan, recipe: dict[str, Any]) -> dict[str, Any]:
    """Return scores of samples against images of the training set, with what is needed to repeat them."""
    extractor = make_extractor(Evaluate().extractor)
    images, _ = pictures(recipe, gan.spec.resolution)
    real = extractor(images[:: len(images) // SCORED_IMAGES] if gan.spec.classes else images[:SCORED_IMAGES])
    fake = extractor(sample(gan.generator_ema, SCORED_IMAGES, SHEET_SEED))
    names = [metric_name(metric, extractor.protocol) for metric in CARD_SCORES]
    neighbours = min(3, len(real) - 1)
    settings = ScoreSettings(k_precision_recall=neighbours, k_density_coverage=neighbours)
    found = evaluate_features(fake, real, None, extractor.protocol, settings=settings)
    return {
        "against": "training images", "n_fake": len(fake), "n_real": len(real),
        "protocol": extractor.protocol, "neighbours": neighbours,
        "values": {
            s.name: {"value": s.value, "low": s.low, "high": s.high, "floor": s.floor}
            for s in found if s.name in names
        },
    }  # fmt: skip


def provenance(recipe: dict[str, Any], images: int) -> dict[str, Any]:
    """Return names, licence, attribution and number of a recipe's training images, as its card has them."""
    sets = {entry["name"]: entry for entry in yaml.safe_load((DATA / "catalogue.yaml").read_text())["sets"]}
    if "classes" not in recipe:
        data = sets[recipe["data"]]
        return {"name": recipe["data"], "licence": data["licence"], "attribution": data["designer"],
                "match": recipe.get("match"), "images": images}  # fmt: skip
    used = [sets[one["data"]] for one in recipe["classes"]]
    return {
        "name": ", ".join(data["name"] for data in used),
        "licence": " AND ".join(sorted({data["licence"] for data in used})),
        "attribution": ", ".join(data["designer"] for data in used),
        "images": images,
        "classes": recipe["classes"],
    }


def sample_sheet(gan: Gan) -> NDArray[np.uint8]:
    """Return a sheet of samples, with one row for each class if there are classes."""
    labels = [i // 8 for i in range(8 * gan.spec.classes)] or None
    count = len(labels) if labels else 64
    return sheet(sample(gan.generator_ema, count, SHEET_SEED, labels=labels), 8, cell_px=64)


def finish(recipes: dict[str, Any], names: list[str]) -> None:
    """Write card, samples and catalogue entry of every stored source, in the catalogues that hold `names`."""
    for file, key in CATALOGUES.items():
        if names and not {recipe["name"] for recipe in recipes[key]} & set(names):
            continue
        entries = [entry for recipe in recipes[key] for entry in finish_source(recipe, recipes)]
        text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)
        write_text(ZOO / file, HEADS[file] + text)


def finish_source(recipe: dict[str, Any], recipes: dict[str, Any]) -> list[dict[str, Any]]:
    """Write card and samples of a stored source and of its snapshots; return their catalogue entries."""
    entries = []
    for name, kimg in {recipe["name"]: recipe["kimg"], **recipe.get("snapshots", {})}.items():
        folder = ZOO / name
        gan = load_gan(folder)
        save_png(sample_sheet(gan), folder / "samples.png")
        data = provenance(recipe, len(pictures(recipe, gan.spec.resolution)[0]))
        title = recipe["title"] if name == recipe["name"] else f"{recipe['title']}, after {kimg} kimg"
        steady = {} if name == recipe["name"] else SNAPSHOT
        card = {
            "name": name, "title": title, "domain": recipe["domain"], "kimg": kimg,
            "data": data,
            "recipe": {**recipes["training"], **recipe.get("training", {}), **steady},
            "network": gan.spec.to_dict(),
            "parameters": {
                "generator": parameter_count(gan.generator),
                "discriminator": parameter_count(gan.discriminator),
            },
            "notes": recipe.get("notes", ""),
            "scores": scores_of(gan, recipe),
        }  # fmt: skip
        write_json(folder / "card.json", card)
        entries.append({
            "name": name, "path": name, "sha256": digest_file(folder / WEIGHTS), "title": title,
            "domain": list(recipe["domain"]), "licence": data["licence"], "kimg": kimg,
            "images": data["images"], "resolution": gan.spec.resolution,
        })  # fmt: skip
    return entries


def main() -> None:
    """Train or finish, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["train", "finish"])
    parser.add_argument("names", nargs="*", help="sources; none means all")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(arguments.threads)
    recipes = yaml.safe_load((ZOO / "recipes.yaml").read_text())
    if arguments.what == "finish":
        return finish(recipes, arguments.names)
    for recipe in itertools.chain.from_iterable(recipes[key] for key in CATALOGUES.values()):
        if not arguments.names or recipe["name"] in arguments.names:
            train(recipe, recipes)


if __name__ == "__main__":
    main()
