"""Feature passes of the stages: in batches, with progress, cached by content and protocol."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from graftgan.config import Params
from graftgan.context import Context
from graftgan.device import pick_device
from graftgan.metrics.cache import FeatureCache
from graftgan.metrics.features import Extractor, make_extractor, require
from graftgan.world import collected, dealt, from_first, is_first, joined_rows, world

Images = NDArray[np.uint8]
Features = NDArray[np.float32]
Share = tuple[int, int]
PART_IMAGES = 128
BLOCK_IMAGES = 64
"""Images that a worker has at a time: a whole number of batches of the sampler and of the extractors."""


def open_extractor(name: str, params: Params) -> Extractor:
    """Return the extractor called `name`, on the device and with the weights that `runtime` names.

    The last one is kept: a ranking asks for the same one for each source, whose features may be known, and to
    open it means to read its file and to run a batch.
    """
    given = params.runtime.inception_weights
    weights = Path(given) if given and name == "inception" else None
    file = require(name, weights)
    state = file.stat()
    device = str(pick_device(params.runtime.device))
    return _opened(name, weights, device, (str(file.absolute()), state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=1)
def _opened(name: str, weights: Path | None, device: str, file: tuple[str, int, int]) -> Extractor:
    """Open an extractor; `file` tells its file from what may lie there later."""
    return make_extractor(name, weights=weights, device=device)


def opaque(images: Images) -> Images:
    """Return grey and RGB images as they are, and RGBA images [N, H, W, 4] over white."""
    if images.shape[-1] != 4:
        return images
    alpha = images[..., 3:].astype(np.float32) / 255
    return cast(Images, np.rint(images[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8))


def extract(images: Images, extractor: Extractor, ctx: Context, name: str) -> Features:
    """Return features [N, dim] of images [N, R, R, C], showing progress under `name`."""
    task = ctx.progress.task(name, len(images))
    parts = []
    try:
        for start in range(0, len(images), PART_IMAGES):
            part = images[start : start + PART_IMAGES]
            parts.append(extractor(opaque(part)))
            task.advance(len(part))
    finally:
        task.close()
    return np.concatenate(parts) if parts else np.zeros((0, extractor.dim), np.float32)


def cached(key: str, make: Callable[[], Images], extractor: Extractor, ctx: Context, name: str) -> Features:
    """Return the features of the images with content `key`, made only if no one made them before."""
    cache = FeatureCache(ctx.cache / "features")
    return cache.get_or_compute(key, extractor.protocol, lambda: extract(make(), extractor, ctx, name))


def cached_together(
    key: str, make: Callable[[Share], Images], extractor: Extractor, ctx: Context, name: str
) -> Features:
    """Return features as :func:`cached` does, each worker computing a share; all have to call it in step.

    Args:
        key: Content key of all images.
        make: Given a share, returns its images; blocks of `BLOCK_IMAGES` are dealt out (`world.dealt`).
        extractor: Makes the features.
        ctx: Surroundings of the stage.
        name: Shown in the progress display.

    Returns:
        Rows of all images, the same bits for any number of workers.
    """
    here = world()
    if here.size == 1:
        return cached(key, lambda: make((0, 1)), extractor, ctx, name)
    cache = FeatureCache(ctx.cache / "features")
    found = from_first(lambda: cache.get(key, extractor.protocol))
    if found is not None:
        return found
    mine = extract(make((here.rank, here.size)), extractor, ctx, name)
    features = joined_rows(collected(mine), BLOCK_IMAGES)
    if is_first():
        cache.keep(key, extractor.protocol, features)
    return features


def share_of(images: Images, share: Share) -> Images:
    """Return the images of a share."""
    return images if share == (0, 1) else images[dealt(len(images), BLOCK_IMAGES, share)]
