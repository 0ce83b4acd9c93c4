"""The classes that a model of method class_embedding has: those of its images, ordered as their labels."""

from __future__ import annotations

from graftgan.checkpoints.catalogue import Source
from graftgan.config import Finetune
from graftgan.data.dataset import ImageSet
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan
from graftgan.gans.class_table import class_table, take_classes, write_row
from graftgan.transfer.class_settings import table_place

KEY = "finetune.class_embedding.classes"


def fit_rows(gan: Gan, source: Source, data: ImageSet, settings: Finetune) -> tuple[Gan, list[str]]:
    """Return the networks to write rows of, and sentences about what became of the source's classes.

    With repurpose there is one new class for each label of the images. With repair and debias, labels are the
    source's class ids and the model has all its classes; images that are all of one class, or have no labels,
    give a model of that class alone.

    Raises:
        ConfigError: Images and `finetune.class_embedding.classes` do not go together.
    """
    table_place(gan.generator_ema)
    table = class_table(gan.generator_ema)
    section = settings.class_embedding
    train = data.labels("train")
    lowest, highest = int(train.min(initial=0)), int(train.max(initial=-1))
    if lowest < 0 <= highest:
        raise ConfigError(
            f"source {source.name} has classes, but some of the images have no label",
            "put all images in sub-folders, one a class, or none",
        )
    if section.use == "repurpose":
        fitted = take_classes(gan, [0] * (max(highest, 0) + 1))
        for row in range(fitted.spec.classes):
            for network in (fitted.generator, fitted.generator_ema):
                write_row(network, row, table.mean(dim=0))
        return fitted, [f"the model has {fitted.spec.classes} new classes, none of source {source.name}"]
    _check_known(section.classes, len(table), highest, source.name)
    if highest > 0:
        return gan, []
    (row,) = section.classes
    return take_classes(gan, [row]), [f"the model has class {row} of source {source.name} alone"]


def _check_known(classes: tuple[int, ...], known: int, highest: int, source: str) -> None:
    if wrong := [row for row in classes if row >= known]:
        raise ConfigError(
            f"{KEY} has {wrong[0]}, but source {source} has {known} classes", f"use 0 to {known - 1}"
        )
    if highest >= known:
        raise ConfigError(
            f"the images have labels up to {highest}, but source {source} has {known} classes",
            "order the images in sub-folders as the source's classes are, or set "
            "finetune.class_embedding.use=repurpose",
        )
    if highest <= 0 and len(classes) > 1:
        raise ConfigError(
            f"{KEY} names {len(classes)} classes, but the images are of one",
            "label the images by sub-folders, or name one class",
        )
