"""Makes the input of an image-to-image task out of its target: edges, grey, low resolution, silhouette."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from graftgan.lifelong_config import Make

Image = npt.NDArray[np.uint8]

LUMA = (299, 587, 114)
SILHOUETTE_DIFFERENCE = 24
"""Levels by which a channel differs from the background where a figure is."""


def edges(image: Image) -> Image:
    """Draw the edges of an image [R, R, 3], dark on white.

    A value is 255 less a quarter of the Sobel gradient's magnitude, of the channel where that is largest; a
    step from black to white along an axis gives 0. Borders are repeated.
    """
    padded = np.pad(image.astype(np.float64), ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    columns = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    across = rows[:, 2:] - rows[:, :-2]
    down = columns[2:] - columns[:-2]
    magnitude = np.sqrt(across**2 + down**2).max(axis=2) / 4
    return _spread(255 - np.minimum(np.rint(magnitude), 255))


def grey(image: Image) -> Image:
    """Take the colour out of an image [R, R, 3]: luma of ITU-R BT.601, rounded, in all three channels."""
    luma = image.astype(np.int64) @ np.array(LUMA)
    return _spread((luma + 500) // 1000)


def lowres(image: Image, factor: int) -> Image:
    """Replace blocks of `factor` x `factor` pixels of an image [R, R, 3] by their rounded means.

    Raises:
        ValueError: The side is no multiple of the factor.
    """
    side = len(image)
    if side % factor:
        raise ValueError(f"a side of {side} pixels is no multiple of {factor}")
    blocks = image.reshape(side // factor, factor, side // factor, factor, -1)
    weights = factor * factor
    means = (blocks.sum(axis=(1, 3), dtype=np.int64) + weights // 2) // weights
    small: Image = means.astype(np.uint8)
    return small.repeat(factor, axis=0).repeat(factor, axis=1)


def silhouette(image: Image) -> Image:
    """Blacken the figure of an image [R, R, 3] on white.

    The figure is where a channel differs from the background, the median colour of the border, by more than
    24 levels.
    """
    values = image.astype(np.int64)
    border = np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])
    background = np.median(border, axis=0)
    figure = np.abs(values - background).max(axis=2) > SILHOUETTE_DIFFERENCE
    return _spread(np.where(figure, 0, 255))


def halves(image: Image) -> tuple[Image, Image]:
    """Return the left and the right half of a side-by-side picture squeezed to [2 R, 2 R, 3], each [R, R, 3].

    Pairs of rows are averaged, which undoes the squeezing of a picture twice as wide as high.
    """
    rows = image.reshape(len(image) // 2, 2, *image.shape[1:]).astype(np.int64)
    means = ((rows.sum(axis=1) + 1) // 2).astype(np.uint8)
    side = len(means)
    return np.ascontiguousarray(means[:, :side]), np.ascontiguousarray(means[:, side:])


def make_input(image: Image, make: Make, factor: int) -> Image:
    """Return what `make` makes of a target; `factor` is that of lowres.

    Raises:
        ValueError: `make` names a half of a picture, which is cut before.
    """
    if make == "edges":
        return edges(image)
    if make == "grey":
        return grey(image)
    if make == "lowres":
        return lowres(image, factor)
    if make == "silhouette":
        return silhouette(image)
    raise ValueError(f"{make} is made of a side-by-side picture, not of a target")


def _spread(values: npt.NDArray[np.generic]) -> Image:
    return np.repeat(values.astype(np.uint8)[:, :, None], 3, axis=2)
