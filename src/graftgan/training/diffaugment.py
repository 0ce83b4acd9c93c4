"""Differentiable augmentation with a fixed policy: colour, translation and cutout on every image.

Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS 2020, arXiv 2006.10738.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from graftgan.device import send
from graftgan.training.ada import check_images
from graftgan.training.warp import gather_pixels
from graftgan.world import own, shards

DIFFAUGMENT_POLICIES = ("color", "translation", "cutout")

TRANSLATION_SHARE = 0.125
"""Largest shift as a share of the image side."""

CUTOUT_SHARE = 0.5
"""Side of the blanked square as a share of the image side."""

_DRAWS = 7


def brightness(images: Tensor, offset: Tensor) -> Tensor:
    """Return images + offset; `images` [N, C, H, W], `offset` [N]."""
    return images + offset[:, None, None, None]


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance of every pixel from its own channel mean; `images` [N, C, H, W], `factor` [N]."""
    mean = images.mean(dim=1, keepdim=True)
    return (images - mean) * factor[:, None, None, None] + mean


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance of every value from the mean of its image; `images` [N, C, H, W], `factor` [N]."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * factor[:, None, None, None] + mean


def translate(images: Tensor, shift_x: Tensor, shift_y: Tensor) -> Tensor:
    """Shift by whole pixels and fill with zeros.

    Args:
        images: [N, C, S, S].
        shift_x: [N] int64, pixels to the right.
        shift_y: [N] int64, pixels down.
    """
    size = images.shape[-1]
    axis = torch.arange(size, device=images.device)
    rows = (axis - shift_y[:, None])[:, :, None].expand(-1, -1, size)
    cols = (axis - shift_x[:, None])[:, None, :].expand(-1, size, -1)
    inside = (rows >= 0) & (rows < size) & (cols >= 0) & (cols < size)
    moved = gather_pixels(images, rows.clamp(0, size - 1), cols.clamp(0, size - 1))
    return moved * inside[:, None]


def cutout(images: Tensor, center_x: Tensor, center_y: Tensor) -> Tensor:
    """Set to zero a square of half the side, cut off at the border.

    Args:
        images: [N, C, S, S].
        center_x: [N] int64; the square covers the columns from center_x - side // 2, side of them.
        center_y: [N] int64, likewise for the rows.
    """
    size = images.shape[-1]
    side = int(size * CUTOUT_SHARE + 0.5)
    axis = torch.arange(size, device=images.device)
    col = axis - center_x[:, None] + side // 2
    row = axis - center_y[:, None] + side // 2
    hole = ((row >= 0) & (row < side))[:, :, None] & ((col >= 0) & (col < side))[:, None, :]
    return images * ~hole[:, None]


class DiffAugment:
    """The policies as one callable, with the signature of `AdaPipe`.

    Args:
        policies: names of `DIFFAUGMENT_POLICIES`; they are applied in that order.

    Raises:
        ValueError: a name is not one of `DIFFAUGMENT_POLICIES`.
    """

    def __init__(self, policies: Collection[str] = DIFFAUGMENT_POLICIES) -> None:
        unknown = sorted(set(policies) - set(DIFFAUGMENT_POLICIES))
        if unknown:
            raise ValueError(
                f"unknown DiffAugment policies {unknown}; known are {list(DIFFAUGMENT_POLICIES)}"
            )
        self.policies = frozenset(policies)

    def __call__(self, images: Tensor, p: float, rng: torch.Generator, parts: int = 1) -> Tensor:
        """Augment a batch; differentiable twice in `images`.

        Args:
            images: [N, 1 | 3 | 4, S, S] floats in [-1, 1], square; colour skips a fourth channel.
            p: not used, every image is augmented.
            rng: CPU generator; it moves on by the same amount whatever the policies are.
            parts: Equal parts, one behind the other, that are each cut over the workers.

        Returns:
            Images of the same shape, dtype and device. Half precision is computed in float32.

        Raises:
            ValueError: images not of the stated shape.
        """
        check_images(images)
        draws = torch.rand(len(images) * shards(), _DRAWS, generator=rng, dtype=torch.float64)
        draws = own(draws, parts)
        with torch.autocast(images.device.type, enabled=False):
            wide = images if images.dtype == torch.float64 else images.float()
            return self._apply(wide, send(draws, images.device)).to(images.dtype)

    def _apply(self, images: Tensor, draws: Tensor) -> Tensor:
        size = images.shape[-1]
        if "color" in self.policies:
            images = _color(images, draws[:, :3].to(images.dtype))
        if "translation" in self.policies:
            reach = int(size * TRANSLATION_SHARE + 0.5)
            shift = (draws[:, 3:5] * (2 * reach + 1)).long() - reach
            images = translate(images, shift[:, 0], shift[:, 1])
        if "cutout" in self.policies:
            # One more place for an even side, so that the square leaves over both borders alike.
            places = size + 1 - int(size * CUTOUT_SHARE + 0.5) % 2
            center = (draws[:, 5:7] * places).long()
            images = cutout(images, center[:, 0], center[:, 1])
        return images


def _color(images: Tensor, draws: Tensor) -> Tensor:
    rgb = brightness(images[:, :3], draws[:, 0] - 0.5)
    rgb = saturation(rgb, 2 * draws[:, 1])
    rgb = contrast(rgb, draws[:, 2] + 0.5)
    return torch.cat([rgb, images[:, 3:]], dim=1) if images.shape[1] > 3 else rgb
