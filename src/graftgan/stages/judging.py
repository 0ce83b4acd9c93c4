"""What judges the checkpoints of a training run: KID on the validation images, from fixed latents."""

from __future__ import annotations

from functools import partial

import torch

from graftgan.config import Params
from graftgan.context import Context
from graftgan.data.dataset import ImageSet
from graftgan.gans.base import Generator, sample
from graftgan.metrics.features import Extractor
from graftgan.metrics.kid import kid, paired_kid_difference
from graftgan.stages.features import (
    BLOCK_IMAGES,
    Features,
    cached_together,
    images_key,
    opaque,
    open_extractor,
    share_of,
)
from graftgan.training.loop import Measurement
from graftgan.world import collected, from_first, joined_rows, world


class KidJudge:
    """Measures validation KID from fixed latents.

    Args:
        real: Features of the validation images.
        extractor: What made them.
        samples: Images sampled at each look.
        seed: Seed of the latents.
    """

    def __init__(self, real: Features, extractor: Extractor, samples: int, seed: int) -> None:
        self.real, self.extractor, self.samples, self.seed = real, extractor, samples, seed

    def measure(self, generator: Generator) -> Measurement:
        """Sample, each worker a share, and score."""
        here = world()
        share = (here.rank, here.size)
        images = sample(generator, self.samples, self.seed, batch=BLOCK_IMAGES, share=share)
        features = joined_rows(collected(self.extractor(opaque(images))), BLOCK_IMAGES)
        estimate = from_first(lambda: kid(features, self.real))
        return Measurement(estimate.value, estimate.low, estimate.high, torch.from_numpy(features))

    def improves(self, new: Measurement, best: Measurement) -> bool:
        """Ask for more than one standard error of the paired difference."""

        def better() -> bool:
            difference = paired_kid_difference(new.features.numpy(), best.features.numpy(), self.real)
            return difference.value + difference.stderr < 0

        return from_first(better)


def make_judge(data: ImageSet, params: Params, ctx: Context) -> tuple[KidJudge, list[str]]:
    """Return the judge of checkpoints, and a warning if it has no validation images to judge by."""
    settings = params.finetune
    extractor = open_extractor(settings.validation_extractor, params)
    split, warnings = "validation", []
    if split in data.missing:
        split = "train"
        warnings.append(f"the checkpoint was chosen on training images: {data.missing['validation']}")
    images = data.images(split)
    real = cached_together(images_key(images), partial(share_of, images), extractor, ctx, f"{split} features")
    return KidJudge(real, extractor, settings.validation_samples, settings.seed), warnings
