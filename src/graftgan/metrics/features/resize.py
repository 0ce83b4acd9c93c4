"""Resizing as two matrix products, so that every run and every batch does the same arithmetic."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

BICUBIC_ANTIALIAS = "bicubic-aa"
TF1_BILINEAR = "tf1-bilinear"


def resize_images(images: Tensor, kind: str, px: int) -> Tensor:
    """Resize float images ``[N, C, H, W]`` with values from 0 to 255 to ``[N, C, px, px]``.

    Args:
        images: the images; the result stays float and is not rounded.
        kind: ``bicubic-aa``, the antialiased Keys cubic that Pillow uses, clipped to 0..255; or
            ``tf1-bilinear``, the bilinear without half-pixel centres that the official FID graph holds.
        px: side of the result.

    Raises:
        KeyError: an unknown kind.
    """
    down, across = (_matrix(kind, side, px).to(images.device) for side in images.shape[-2:])
    return (down @ images @ across.T).clamp_(0, 255)


@lru_cache(maxsize=32)
def _matrix(kind: str, n_in: int, n_out: int) -> Tensor:
    # Kept for every later caller, of whom some need gradients through it.
    with torch.inference_mode(False):
        return {BICUBIC_ANTIALIAS: _bicubic_antialias, TF1_BILINEAR: _tf1_bilinear}[kind](n_in, n_out).float()


def _bicubic_antialias(n_in: int, n_out: int) -> Tensor:
    # a linear filter is known by what it does to the unit vectors
    unit = torch.eye(n_in, dtype=torch.float64)[None, None]
    return F.interpolate(unit, size=(n_out, n_in), mode="bicubic", antialias=True, align_corners=False)[0, 0]


def _tf1_bilinear(n_in: int, n_out: int) -> Tensor:
    position = torch.arange(n_out, dtype=torch.float64) * (n_in / n_out)
    low = position.floor().long().clamp(max=n_in - 1)
    high = (low + 1).clamp(max=n_in - 1)
    weight = position - low
    matrix = torch.zeros(n_out, n_in, dtype=torch.float64)
    rows = torch.arange(n_out)
    matrix.index_put_((rows, low), 1 - weight, accumulate=True)
    matrix.index_put_((rows, high), weight, accumulate=True)
    return matrix
