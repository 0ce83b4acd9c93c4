"""What a run starts from: a source of the catalogue, made to fit the data, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from graftgan.checkpoints.catalogue import SCRATCH, Catalogue, Source
from graftgan.config import Data, Params
from graftgan.data.dataset import ImageSet
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, build
from graftgan.gans.reclass import reclass
from graftgan.gans.spec import GanSpec, family_module
from graftgan.gans.stylegan2 import StyleGAN2Spec
from graftgan.stages.class_rows import fit_rows
from graftgan.stages.target_class import class_mixture, told
from graftgan.transfer import method

TRAINED = "and are trained whatever finetune.method fixes"
FRESH_D_RESULT = "beside a fresh D, a pretrained G keeps little of its advantage (Grigoryev et al. 2022)"


@dataclass(frozen=True)
class Start:
    """Networks to train, and how they came to fit the data.

    Attributes:
        gan: The networks.
        source: Their catalogue entry, or None for a run from scratch.
        changes: Sentences about what had to be changed.
        whole: The networks before their classes were fitted, where a method needs them beside `gan`.
    """

    gan: Gan
    source: Source | None
    changes: tuple[str, ...] = ()
    whole: Gan | None = None


def scratch_spec(data: ImageSet, params: Params) -> StyleGAN2Spec:
    """Return the network that learns the data without a source."""
    widths = params.finetune.scratch.model_dump()
    return StyleGAN2Spec(resolution=data.resolution, channels=data.channels, **widths)


def can_fit(spec: GanSpec, data: ImageSet | Data) -> bool:
    """Tell whether networks of this spec can be trained on the data."""
    same = (spec.resolution, spec.channels) == (data.resolution, data.channels)
    return same or hasattr(family_module(spec.family), "refit")


def starting_point(name: str, data: ImageSet, params: Params, cache: Path) -> Start:
    """Return the networks a run starts from.

    Raises:
        ConfigError: If the source makes images of another size and its family cannot be cut or grown, or if
            it has no discriminator and `finetune.fresh_discriminator` is not set.
    """
    seed = params.finetune.seed
    if name == SCRATCH:
        return Start(build(scratch_spec(data, params), seed), None)
    catalogue = Catalogue(params.rank.catalogue, cache)
    (source,) = catalogue.select([name])
    gan, changes = _sized(catalogue.load(source, cache), source, data, seed)
    if params.finetune.method == "class_embedding":
        rows, about_rows = fit_rows(gan, source, data, params.finetune)
        return Start(rows, source, (*changes, *about_rows), gan)
    gan, about_classes = _classed(gan, source, data, params)
    return Start(gan, source, (*changes, *about_classes, *_with_discriminator(gan, source, params)))


def _sized(gan: Gan, source: Source, data: ImageSet, seed: int) -> tuple[Gan, list[str]]:
    px, channels = gan.spec.resolution, gan.spec.channels
    if (px, channels) == (data.resolution, data.channels):
        return gan, []
    if not can_fit(gan.spec, data):
        raise ConfigError(
            f"source {source.name} makes {px} px images of {channels} channels, "
            f"the data are {data.resolution} px of {data.channels}",
            f"set data.resolution={px} and data.channels={channels}, or choose another source",
        )
    refitted, new = family_module(gan.spec.family).refit(gan, data.resolution, data.channels, seed)
    verb = "cut" if data.resolution < px else "grown" if data.resolution > px else "changed"
    size = f"{data.resolution} px and {data.channels} channels"
    return refitted, [f"source {source.name} was {verb} to {size}: {len(new)} tensors are new, {TRAINED}"]


def _classed(gan: Gan, source: Source, data: ImageSet, params: Params) -> tuple[Gan, list[str]]:
    lowest = int(data.labels("train").min(initial=0))
    highest = int(data.labels("train").max(initial=-1))
    rows = params.finetune.target_class.rows
    if not gan.spec.classes:
        found = []
        if rows != "mean":
            found.append(
                f"finetune.target_class.rows={rows} has no effect: source {source.name} has no classes"
            )
        given = params.finetune.method == "gan_memory" and params.finetune.gan_memory.classes is not None
        if highest > 0 and not given:
            found.append(f"source {source.name} has no classes: the labels of the images are not used")
        return gan, found
    if 0 <= lowest <= highest < gan.spec.classes:
        if rows == "mean":
            return gan, []
        if highest + 1 == gan.spec.classes:
            # As many labels as classes are those classes.
            return gan, [
                f"finetune.target_class.rows={rows} has no effect: the images have the source's classes"
            ]
    if lowest < 0 <= highest:
        raise ConfigError(
            f"source {source.name} has classes, but some of the images have no label",
            "put all images in sub-folders, one a class, or none",
        )
    classes = max(highest + 1, 1)
    text = (
        f"source {source.name} has {gan.spec.classes} classes, the run {classes}: each starts as their mean"
    )
    if (mixture := class_mixture(gan, data, classes, params)) is not None:
        text = f"source {source.name} has {gan.spec.classes} classes: {told(mixture, classes)}"
    return reclass(gan, classes, mixture), [text]


def _with_discriminator(gan: Gan, source: Source, params: Params) -> list[str]:
    chosen = method(params.finetune.method)
    if chosen.direct is not None:
        return []
    if "discriminator" not in gan.fresh:
        unused = f"finetune.fresh_discriminator has no effect: source {source.name} has a discriminator"
        return [unused] if params.finetune.fresh_discriminator else []
    if not params.finetune.fresh_discriminator:
        raise ConfigError(
            f"source {source.name} has no discriminator: {FRESH_D_RESULT}",
            "choose another source, or set finetune.fresh_discriminator=true",
        )
    found = [f"source {source.name} has no discriminator, a fresh one is trained: {FRESH_D_RESULT}"]
    if chosen.fixes_d:
        found.append(
            f"finetune.method={chosen.name} fixes nothing of D, "
            "which finetune.fresh_discriminator=true makes new"
        )
    return found
