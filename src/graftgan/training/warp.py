"""Differentiable geometric image transforms: exact pixel moves and anti-aliased resampling.

Both take one inverse affine map per image, so a batch is warped without a Python loop. Coordinates are
pixels measured from the image centre, x to the right and y down. Everything is linear in the image and built
from operations that torch differentiates twice, as R1 needs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LANCZOS_LOBES = 3
"""Half width, in pixels of the image, of the windowed sinc used for up- and down-sampling."""

OUTPUT_OVERSAMPLING = 1.5
"""Look-ups per output pixel and axis: room for what shrinking pushes past the Nyquist frequency."""


def reflect_index(index: Tensor, size: int) -> Tensor:
    """Map any integer index to [0, size) by mirroring about the centres of the edge pixels.

    Args:
        index: integer tensor of any shape.
        size: number of pixels along the axis, at least 2.

    Returns:
        Tensor like `index`; the rule of `reflect` padding continued without end.
    """
    period = 2 * (size - 1)
    folded = index.remainder(period)
    return torch.minimum(folded, period - folded)


def gather_pixels(images: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Pick `images[n, :, rows[n, i, j], cols[n, i, j]]` for every output pixel (i, j).

    Args:
        images: [N, C, H, W].
        rows: [N, H', W'] int64 in [0, H).
        cols: [N, H', W'] int64 in [0, W).

    Returns:
        [N, C, H', W'] with the very values of `images`.
    """
    flat = (rows * images.shape[3] + cols).flatten(1)
    picked = images.flatten(2).gather(2, flat[:, None].expand(-1, images.shape[1], -1))
    return torch.unflatten(picked, 2, rows.shape[1:])


def blit(images: Tensor, inverse: Tensor) -> Tensor:
    """Move whole pixels: mirror, quarter turns and integer shifts, without any arithmetic on the values.

    Args:
        images: [N, C, S, S].
        inverse: [N, 2, 3] map from output to input coordinates (x, y) whose linear part permutes or negates
            the axes and whose shift is a whole number of pixels.

    Returns:
        [N, C, S, S]; pixels from beyond the border are reflected.
    """
    size = images.shape[-1]
    middle = (size - 1) / 2
    axis = torch.arange(size, device=images.device, dtype=inverse.dtype) - middle
    x, y = _source(inverse, axis)
    cols, rows = (reflect_index((c + middle).round().long(), size) for c in (x, y))
    return gather_pixels(images, rows, cols)


def resample(images: Tensor, inverse: Tensor) -> Tensor:
    """Warp by an affine map at a finer resolution: up-sample, bilinear look-up, low-pass, down-sample.

    The scheme of Karras et al. 2020 (arXiv 2006.06676, appendix B) with Lanczos filters in place of their
    sym6 wavelet. Detail that no longer fits is damped to about a tenth when shrinking to as little as 0.6;
    direct bilinear look-up leaves more than a half of it as aliases.

    Args:
        images: [N, C, S, S], S at least 2.
        inverse: [N, 2, 3] map from output to input coordinates (x, y).

    Returns:
        [N, C, S, S] in the dtype of `images`; what lies beyond the border is reflected.
    """
    up, down, axis = _filters(images.shape[-1], images.dtype, images.device)
    fine = up @ images @ up.T
    # grid_sample counts from -1 to 1 over the centres of the corner pixels.
    grid = torch.stack(_source(inverse * (2 / (images.shape[-1] - 1)), axis), dim=-1)
    warped: Tensor = _LookUp.apply(fine, grid)  # type: ignore[no-untyped-call]
    return down @ warped @ down.T


class _LookUp(torch.autograd.Function):
    """Bilinear `grid_sample`, linear in the image and with no gradient for the grid.

    Its adjoint is spelled out because older releases of torch that we support cannot differentiate theirs.
    """

    @staticmethod
    def forward(ctx: Any, fine: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = fine.shape
        return F.grid_sample(fine, grid, mode="bilinear", padding_mode="reflection", align_corners=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        adjoint: Tensor = _LookUpAdjoint.apply(grads[0], grid, ctx.shape)  # type: ignore[no-untyped-call]
        return adjoint, None


class _LookUpAdjoint(torch.autograd.Function):
    """Spread every value over the four pixels it was looked up from."""

    @staticmethod
    def forward(ctx: Any, warped: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        bilinear, reflection, align_corners, image_only = 0, 2, True, (True, False)
        unused = warped.new_zeros(shape)
        spread: Tensor = torch.ops.aten.grid_sampler_2d_backward(
            warped, unused, grid, bilinear, reflection, align_corners, image_only
        )[0]
        return spread

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        found: Tensor = _LookUp.apply(grads[0], grid)  # type: ignore[no-untyped-call]
        return found, None, None


def _source(inverse: Tensor, axis: Tensor) -> tuple[Tensor, Tensor]:
    """Input x and y, each [N, M, M], of the output points `axis` x `axis`; faster here than affine_grid."""
    columns = inverse[..., None, None]
    x, y = (columns[:, i, 0] * axis + (columns[:, i, 1] * axis[:, None] + columns[:, i, 2]) for i in (0, 1))
    return x, y


def _lanczos(offset: Tensor) -> Tensor:
    return torch.sinc(offset) * torch.sinc(offset / LANCZOS_LOBES) * (offset.abs() < LANCZOS_LOBES)


@lru_cache(maxsize=16)
def _filters(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices [2S-1, S] up and [S, M] down, and the output coordinates [M] that are looked up."""
    # A tensor made in inference mode could never enter a gradient later, and these are kept.
    with torch.inference_mode(False):
        reach = int(((size - 1) / 2 + LANCZOS_LOBES) * OUTPUT_OVERSAMPLING)
        axis = torch.arange(-reach, reach + 1, dtype=torch.float64) / OUTPUT_OVERSAMPLING
        matrices = _upsampling_matrix(size), _downsampling_matrix(size, axis), axis
        up, down, axis = (matrix.to(device=device, dtype=dtype) for matrix in matrices)
        return up, down, axis


def _upsampling_matrix(size: int) -> Tensor:
    """Every pixel as it is, and one interpolated sample between neighbours."""
    taps = torch.arange(1 - LANCZOS_LOBES, LANCZOS_LOBES + 1)
    weights = _lanczos(taps.double() - 0.5)
    weights = weights / weights.sum()
    matrix = torch.zeros(2 * size - 1, size, dtype=torch.float64)
    matrix[::2] = torch.eye(size, dtype=torch.float64)
    left = torch.arange(size - 1)[:, None]
    cols = reflect_index(left + taps, size)
    rows = (2 * left + 1).expand_as(cols)
    return matrix.index_put((rows, cols), weights.expand(cols.shape), accumulate=True)


def _downsampling_matrix(size: int, axis: Tensor) -> Tensor:
    """Low-pass at the Nyquist frequency of the image, from samples at `axis` to the pixel centres."""
    pixels = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weights = _lanczos(axis - pixels[:, None])
    return weights / weights.sum(dim=1, keepdim=True)
