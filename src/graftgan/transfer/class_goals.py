"""Which classes are tuned, on which images, and by which objective."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftgan.errors import ConfigError, DataError
from graftgan.gans.base import Gan, draw_latents
from graftgan.gans.class_table import class_table, generate
from graftgan.metrics.features.gradient import Differentiable, differentiable_features, differentiable_script
from graftgan.transfer.class_game import NewClass
from graftgan.transfer.class_objectives import (
    ClassDiscriminator,
    Classifier,
    KernelMatch,
    Objective,
    Probe,
    Realism,
    Reconstruction,
    in_parts,
)
from graftgan.transfer.direct import Task

MOST_IMAGES = 1000
INVERTED_IMAGES = 64
PROBE_SAMPLES = 256
REALISM_SAMPLES = 64
NEED_IMAGES = ("probe", "mmd", "inversion")
"""Objectives that compare with images; `discriminator` does too where the class is new."""


@dataclass(frozen=True)
class Target:
    """A class to tune.

    Attributes:
        row: Its row in the table of the model.
        source_row: Its row in the source's table; None for a new class.
        output: The classifier's output that stands for it, if one was named.
        images: Its training images, uint8 [N, R, R, C].
        network: Name of the network of features.
        device: Where to compute.
    """

    row: int
    source_row: int | None
    output: int | None
    images: NDArray[np.uint8]
    network: str
    device: torch.device

    def features(self) -> Differentiable:
        """Return the network of features, read once."""
        return _features(self.network, self.device)

    def pixels(self, most: int) -> Tensor:
        """Return the first images, float32 [N, C, R, R] in [-1, 1], three channels at most."""
        chosen = torch.from_numpy(np.ascontiguousarray(self.images[:most])).to(self.device)
        return chosen.permute(0, 3, 1, 2).float() / 127.5 - 1


@lru_cache(maxsize=2)
def _features(name: str, device: torch.device) -> Differentiable:
    return differentiable_features(name).to(device)


def targets_of(task: Task) -> list[Target]:
    """Return the classes that move.

    Images without labels, or with one alone, are those of the one class; else labels are the model's classes.

    Raises:
        ConfigError: A class is not in the model, or there are more or fewer outputs than classes.
        DataError: A class has no images and the objective needs some.
    """
    section = task.settings.class_embedding
    alone = task.source is not None and task.source is not task.gan
    if section.use == "repurpose":
        rows: list[tuple[int, int | None]] = [(row, None) for row in range(task.gan.spec.classes)]
    elif alone:
        rows = [(row, source_row) for row, source_row in enumerate(section.classes)]
    else:
        rows = [(row, row) for row in section.classes]
    outputs = section.classifier_classes or section.classes
    asked = section.objective == "classifier" or section.judge_classifier is not None
    if asked and len(outputs) != len(rows):
        raise ConfigError(
            f"finetune.class_embedding.classifier_classes has {len(outputs)} outputs for {len(rows)} classes",
            "name one for each",
        )
    found = []
    for place, (row, source_row) in enumerate(rows):
        if not 0 <= row < task.gan.spec.classes:
            raise ConfigError(
                f"finetune.class_embedding.classes has {row}, the model {task.gan.spec.classes} classes",
                f"use 0 to {task.gan.spec.classes - 1}",
            )
        mine = slice(None) if len(rows) == 1 and task.gan.spec.classes == 1 else _labelled(task, row)
        target = Target(
            row,
            source_row,
            outputs[place] if outputs else None,
            task.images[mine],
            section.features,
            task.device,
        )
        learns = section.objective == "discriminator" and source_row is None
        if (learns or section.objective in NEED_IMAGES) and len(target.images) < 2:
            raise DataError(
                f"class {row} has {len(target.images)} training images, "
                f"and finetune.class_embedding.objective={section.objective} compares with images",
                "add images, or take it from finetune.class_embedding.classes",
            )
        found.append(target)
    return found


def _labelled(task: Task, row: int) -> NDArray[np.bool_]:
    labels = np.zeros(len(task.images), np.int32) if task.labels is None else task.labels
    return np.asarray(labels == row)


def make_objective(task: Task, source: Gan, target: Target) -> Objective:
    """Return the loss that the settings name, for one class.

    Raises:
        ConfigError: It needs a discriminator, and the source came without one.
    """
    section = task.settings.class_embedding
    if section.objective == "classifier":
        logits = differentiable_script(str(section.classifier)).to(task.device)
        assert target.output is not None
        return Classifier(logits, target.output)
    if section.objective in ("discriminator", "realism"):
        return _by_discriminator(task, source, target)
    features = target.features()
    if section.objective == "inversion":
        real = target.pixels(INVERTED_IMAGES)
        return Reconstruction(features, real, in_parts(features, real))
    rows = in_parts(features, target.pixels(MOST_IMAGES))
    if section.objective == "mmd":
        return KernelMatch(features, rows)
    count = min(max(len(rows), 2 * len(class_table(source.generator_ema))), PROBE_SAMPLES)
    others = samples_of_others(source, target.source_row, count, task.settings.seed)
    return Probe.train(features, rows, in_parts(features, others))


def _by_discriminator(task: Task, source: Gan, target: Target) -> Objective:
    section = task.settings.class_embedding
    if "discriminator" in source.fresh or not source.spec.classes:
        raise ConfigError(
            f"finetune.class_embedding.objective={section.objective} needs the source's discriminator, "
            "which was published without",
            "set finetune.class_embedding.objective=mmd or probe",
        )
    if target.source_row is None:
        return NewClass.of_images(source.discriminator, target.pixels(MOST_IMAGES))
    judge = ClassDiscriminator(source.discriminator, target.source_row)
    if section.objective == "discriminator":
        return judge
    floor = _healthy_realism(source, target.source_row, task.settings.seed)
    return Realism(judge, floor)


@torch.no_grad()
def _healthy_realism(source: Gan, row: int, seed: int) -> float:
    """Return the median over the other classes of D's mean logit for their own samples."""
    table = class_table(source.generator_ema)
    means = []
    for other in range(len(table)):
        if other != row or len(table) == 1:
            z = draw_latents(source.spec, REALISM_SAMPLES, torch.Generator().manual_seed(seed))[0]
            images = draw_class(source, z.to(table.device), table[other])
            means.append(float(ClassDiscriminator(source.discriminator, other).realism(images)))
    return float(np.median(means))


def draw_class(source: Gan, z: Tensor, vector: Tensor) -> Tensor:
    """Return images of the averaged generator with one class vector, without gradients."""
    with torch.no_grad():
        return torch.cat(
            [generate(source.generator_ema, part, vector.expand(len(part), -1)) for part in z.split(64)]
        )


def samples_of_others(source: Gan, row: int | None, count: int, seed: int) -> Tensor:
    """Return `count` samples of the source's classes in turn, without those of one class."""
    table = class_table(source.generator_ema)
    others = [other for other in range(len(table)) if other != row] or [0]
    z = draw_latents(source.spec, count, torch.Generator().manual_seed(seed))[0].to(table.device)
    vectors = table[[others[i % len(others)] for i in range(count)]]
    with torch.no_grad():
        parts = zip(z.split(64), vectors.split(64), strict=True)
        return torch.cat([generate(source.generator_ema, a, b) for a, b in parts])
