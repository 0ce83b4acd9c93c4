"""Feature passes of the stages: in batches, with progress, cached by content, protocol, code and device."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from graftgan.config import Params
from graftgan.context import Context
from graftgan.contract import digest_text
from graftgan.device import pick_device
from graftgan.metrics.cache import FeatureCache
from graftgan.metrics.features import Extractor, make_extractor, require
from graftgan.places import code_digest
from graftgan.world import collected, dealt, from_first, is_first, joined_rows, world

Images = NDArray[np.uint8]
Features = NDArray[np.float32]
Share = tuple[int, int]
PART_IMAGES = 128
BLOCK_IMAGES = 64
"""Images that a worker has at a time: a whole number of batches of the sampler and of the extractors."""
MEASURING = ("metrics/features", "stages/features.py")
SAMPLING = ("gans",)
"""Code that decides features beside images and weights, and samples beside weights; other edits keep them."""


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
    place = (str(file.absolute()), state.st_mtime_ns, state.st_ctime_ns, state.st_size)
    return _opened(name, weights, device, place)


@lru_cache(maxsize=1)
def _opened(name: str, weights: Path | None, device: str, file: tuple[str, int, int, int]) -> Extractor:
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


def images_key(images: Images) -> str:
    """Return the content key of images: the sha256 over their shape and every pixel."""
    return digest_text(
        f"images {images.shape} {hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()}"
    )


def samples_key(content: str, device: torch.device, *settings: float) -> str:
    """Return the content key of samples.

    Args:
        content: Digest of the generator's weights.
        device: Where they are computed; another kind of device rounds otherwise.
        settings: Number, seed, and what else they are drawn by.
    """
    return digest_text(f"samples {content} {device.type} {settings} {code_digest(*SAMPLING)}")


def feature_key(key: str, extractor: Extractor) -> str:
    """Return what the cache knows features by beside their protocol, for the content key of the images."""
    return digest_text(f"features {key} {extractor.device.type} {code_digest(*MEASURING)}")


def cached(key: str, make: Callable[[], Images], extractor: Extractor, ctx: Context, name: str) -> Features:
    """Return the features of the images with content `key`, made only if no one made them before."""
    cache = FeatureCache(ctx.cache / "features")
    place = feature_key(key, extractor)
    return cache.get_or_compute(place, extractor.protocol, lambda: extract(make(), extractor, ctx, name))


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
    place = feature_key(key, extractor)
    found = from_first(lambda: cache.get(place, extractor.protocol))
    if found is not None:
        return found
    mine = extract(make((here.rank, here.size)), extractor, ctx, name)
    features = joined_rows(collected(mine), BLOCK_IMAGES)
    if is_first():
        cache.keep(place, extractor.protocol, features)
    return features


def share_of(images: Images, share: Share) -> Images:
    """Return the images of a share."""
    return images if share == (0, 1) else images[dealt(len(images), BLOCK_IMAGES, share)]
