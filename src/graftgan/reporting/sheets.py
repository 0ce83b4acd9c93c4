"""Contact sheets and animations of small images; the bytes written depend on the pixels alone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]

WHITE = 255
LABEL_PX = 12
LABEL_MARGIN_PX = 4


def to_rgb(images: Pixels) -> Pixels:
    """Return images as RGB: grey is repeated, RGBA is laid over white.

    Args:
        images: uint8 [..., H, W, C] with 1, 3 or 4 channels.

    Returns:
        uint8 [..., H, W, 3].

    Raises:
        ValueError: If the images are not uint8 or have another number of channels.
    """
    if images.dtype != np.uint8 or images.ndim < 3 or images.shape[-1] not in (1, 3, 4):
        raise ValueError(f"expected uint8 [..., H, W, 1|3|4], got {images.dtype} {images.shape}")
    if images.shape[-1] == 1:
        return np.repeat(images, 3, axis=-1)
    if images.shape[-1] == 3:
        return np.ascontiguousarray(images)
    alpha = images[..., 3:].astype(np.uint32)
    mixed = images[..., :3].astype(np.uint32) * alpha + WHITE * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def enlarge(images: Pixels, factor: int) -> Pixels:
    """Return images [N, H, W, C] with every pixel repeated `factor` times in both directions."""
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def sheet(
    images: Pixels,
    columns: int,
    cell_px: int | None = None,
    gap_px: int = 2,
    labels: Sequence[str] | None = None,
) -> Pixels:
    """Lay images out in rows on white.

    Args:
        images: uint8 [N, H, W, C], C of 1, 3 or 4; N may be 0.
        columns: Images a row; the last row may be short.
        cell_px: Wanted width of a cell in pixels; small images are enlarged by the largest whole factor that
            stays within it, by repeating pixels. None, or less than the images' width, leaves them alone.
        gap_px: White pixels between cells and around the sheet.
        labels: One text a row, written at the left in PIL's own font.

    Returns:
        uint8 [H', W', 3].

    Raises:
        ValueError: If the images or the number of columns make no sense, or labels do not match the rows.
    """
    if images.ndim != 4 or columns < 1 or gap_px < 0:
        raise ValueError(f"expected images [N, H, W, C] and columns >= 1, got {images.shape} and {columns}")
    cells = to_rgb(images)
    if cell_px is not None:
        cells = enlarge(cells, max(1, cell_px // cells.shape[2]))
    count, height, width, _ = cells.shape
    rows = -(-count // columns)
    canvas = np.full(
        (rows * (height + gap_px) + gap_px, columns * (width + gap_px) + gap_px, 3), WHITE, np.uint8
    )
    for index, cell in enumerate(cells):
        top = gap_px + (index // columns) * (height + gap_px)
        left = gap_px + (index % columns) * (width + gap_px)
        canvas[top : top + height, left : left + width] = cell
    if labels is None:
        return canvas
    if len(labels) != rows:
        raise ValueError(f"{len(labels)} labels for {rows} rows")
    return np.concatenate([_label_column(labels, height + gap_px, canvas.shape[0]), canvas], axis=1)


def _label_column(labels: Sequence[str], pitch_px: int, height_px: int) -> Pixels:
    font = ImageFont.load_default(LABEL_PX)
    width = max((int(font.getlength(text)) + 1 for text in labels), default=0) + 2 * LABEL_MARGIN_PX
    column = Image.new("RGB", (width, height_px), "white")
    draw = ImageDraw.Draw(column)
    for row, text in enumerate(labels):
        middle = row * pitch_px + pitch_px // 2
        draw.text((width - LABEL_MARGIN_PX, middle), text, fill="black", font=font, anchor="rm")
    return np.asarray(column)


def png_bytes(array: Pixels) -> bytes:
    """Return an image, uint8 [H, W, C] or [H, W], as the bytes of a PNG file without metadata."""
    squeezed = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    buffer = io.BytesIO()
    # A higher level takes ten times as long on enlarged pixels and saves next to nothing.
    Image.fromarray(np.ascontiguousarray(squeezed)).save(buffer, "PNG", optimize=False, compress_level=6)
    return buffer.getvalue()


def save_png(array: Pixels, path: Path) -> None:
    """Write an image, uint8 [H, W, C] or [H, W], as PNG; the bytes depend on the pixels alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png_bytes(array))


def save_gif(frames: Sequence[Pixels] | Pixels, path: Path, ms: int = 80) -> None:
    """Write frames as an endless GIF with one palette, so that colours do not flicker.

    Args:
        frames: uint8 [H, W, C] each, all of one size.
        path: File to write.
        ms: Time of a frame in milliseconds, a multiple of 10.

    Raises:
        ValueError: If there are no frames.
    """
    if len(frames) == 0:
        raise ValueError("a GIF needs at least one frame")
    pictures = [Image.fromarray(np.ascontiguousarray(to_rgb(frame))) for frame in frames]
    palette = _palette(pictures)
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    path.parent.mkdir(parents=True, exist_ok=True)
    indexed[0].save(
        path, "GIF", save_all=True, append_images=indexed[1:], duration=ms, loop=0, optimize=False, disposal=1
    )


def _palette(pictures: Sequence[Any]) -> Any:
    stride = max(1, len(pictures) // 16)
    strip = np.concatenate([np.asarray(p) for p in pictures[::stride]], axis=0)
    return Image.fromarray(strip).quantize(colors=255, method=Image.Quantize.MEDIANCUT)
