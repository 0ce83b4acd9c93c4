"""What a run starts from: a source of the catalogue that fits the data, or nothing."""

from __future__ import annotations

from pathlib import Path

from graftgan.checkpoints.catalogue import SCRATCH, Catalogue, Source
from graftgan.config import Params
from graftgan.data.dataset import ImageSet
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, build
from graftgan.gans.stylegan2 import StyleGAN2Spec


def scratch_spec(data: ImageSet, params: Params) -> StyleGAN2Spec:
    """Return the network that learns the data without a source."""
    widths = params.finetune.scratch.model_dump()
    return StyleGAN2Spec(resolution=data.resolution, channels=data.channels, **widths)


def starting_point(name: str, data: ImageSet, params: Params, cache: Path) -> tuple[Gan, Source | None]:
    """Return the networks a run starts from, and their catalogue entry.

    Raises:
        ConfigError: If the source makes images of another size than the data's.
    """
    if name == SCRATCH:
        return build(scratch_spec(data, params), params.finetune.seed), None
    catalogue = Catalogue(Path(params.rank.catalogue))
    (source,) = catalogue.select([name])
    gan = catalogue.load(source, cache)
    if (gan.spec.resolution, gan.spec.channels) != (data.resolution, data.channels):
        px, channels = gan.spec.resolution, gan.spec.channels
        raise ConfigError(
            f"source {source.name} makes {px} px images of {channels} channels, "
            f"the data are {data.resolution} px of {data.channels}",
            f"set data.resolution={px} and data.channels={channels}, or choose another source",
        )
    highest = int(data.labels("train").max(initial=-1))
    if gan.spec.classes and not 0 <= int(data.labels("train").min(initial=0)) <= highest < gan.spec.classes:
        given = f"the data have {len(data.label_names)} labels"
        raise ConfigError(
            f"source {source.name} has {gan.spec.classes} classes, {given}",
            "put the images in one sub-folder a class, no more than the source has, or choose another",
        )
    return gan, source
