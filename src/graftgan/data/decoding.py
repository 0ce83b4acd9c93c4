"""Turns the bytes of one untrusted image file into square uint8 pixels, or into a short reason why not."""

from __future__ import annotations

import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    # Every decoding process imports this module, and the configuration would double what that takes.
    from graftgan.config import Data

# Formats that Pillow decodes by itself; EPS, PDF and the like start other programs.
ACCEPTED = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("avif", "bmp", "dib", "gif", "jfif", "jp2", "jpe", "jpeg", "jpg", "mpo"),
        *("pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp"),
    )
)
SNIFF_BYTES = 16
ORIENTATION = 0x0112
SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")
FILTERS = {
    "box": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class BadImageError(Exception):
    """An image cannot be used; the message is a short reason without the name of the file."""


@dataclass(frozen=True)
class DecodeOptions:
    """What a decoder needs of the configuration; see `config.Data` for the meaning of each key."""

    resolution: int
    channels: int
    fit: Literal["crop", "pad", "stretch"]
    resize_filter: Literal["box", "bicubic", "lanczos"]
    background: str
    max_pixels: int
    max_file_bytes: int

    @classmethod
    def of(cls, data: Data) -> DecodeOptions:
        """Take the options out of the data section."""
        return cls(
            data.resolution,
            data.channels,
            data.fit,
            data.resize_filter,
            data.background,
            data.max_pixels,
            data.max_file_bytes,
        )


@dataclass(frozen=True)
class Decoded:
    """One image, ready to pack.

    Attributes:
        pixels: uint8 [R, R, C], read-only.
        picture: The same as an image of Pillow's, with which it is cheaper to compute.
        width: Width of the original as a viewer shows it, that is after EXIF rotation.
        height: Height of it.
        mode: Pillow's mode of the original.
    """

    pixels: npt.NDArray[np.uint8]
    picture: Image.Image
    width: int
    height: int
    mode: str


def looks_like_image(head: bytes) -> bool:
    """Tell from the first `SNIFF_BYTES` bytes of a file whether it is in an accepted format."""
    starts = (
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF87a",
        b"GIF89a",
        b"BM",
        b"II*\x00",
        b"MM\x00*",
        b"II+\x00",
        b"MM\x00+",
        b"\x00\x00\x00\x0cjP  ",
        b"\xff\x4f\xff\x51",
    )
    netpbm = head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace()
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    avif = head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis", b"mif1")
    return head.startswith(starts) or netpbm or webp or avif


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in ACCEPTED if name in Image.OPEN)


_turn = threading.Lock()


@contextmanager
def _strict(max_pixels: int) -> Iterator[None]:
    """Make Pillow refuse bombs and truncated files for the length of the block, one thread after another.

    Its limit and Python's filters are the whole process's: threads that each set and restored them would
    decode by another's limit, and leave the last one's behind.
    """
    with _turn:
        yield from _set(max_pixels)


def _set(max_pixels: int) -> Iterator[None]:
    saved = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = max_pixels, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("error", message=".*[Tt]runcated.*")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = saved


def decode(data: bytes, options: DecodeOptions) -> Decoded:
    """Decode, orient, convert, square and resize one image.

    Only the first frame of an animation is used. Colour profiles are ignored.

    Args:
        data: The whole file.
        options: Size, mode and limits.

    Raises:
        BadImageError: If it is not a whole image in an accepted format and within the limits.
    """
    if not data:
        raise BadImageError("empty file")
    if len(data) > options.max_file_bytes:
        raise BadImageError(f"{len(data)} bytes, more than data.max_file_bytes = {options.max_file_bytes}")
    try:
        with _strict(options.max_pixels), _opened(data, options.max_pixels) as image:
            image.load()
            return _convert(image, options)
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise BadImageError("not an image in an accepted format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImageError(f"more pixels than data.max_pixels = {options.max_pixels}") from None
    except MemoryError:
        raise BadImageError("too large for the memory") from None
    # Decoders of hostile bytes raise nearly anything: struct.error, IndexError, SyntaxError, zlib.error...
    except Exception as error:
        raise BadImageError(_reason(error)) from None


def _opened(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    image = Image.open(io.BytesIO(data), formats=_formats())
    width, height = image.size
    if width * height > max_pixels:
        raise BadImageError(f"{width} x {height} pixels, more than data.max_pixels = {max_pixels}")
    if type(image).verify is ImageFile.ImageFile.verify:
        return image
    # The format has checksums; a file that was verified cannot be decoded and is opened again.
    image.verify()
    return Image.open(io.BytesIO(data), formats=_formats())


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:120] or type(error).__name__
    words = ("truncated", "broken data stream", "not enough", "unexpected end", "end of file", "incomplete")
    cut = isinstance(error, EOFError) or any(word in text.lower() for word in words)
    return f"truncated ({text})" if cut else f"damaged ({text})"


def _convert(image: Image.Image, options: DecodeOptions) -> Decoded:
    mode = image.mode
    upright = _upright(image)
    width, height = upright.size
    coloured = _to_channels(_to_8_bit(upright), options)
    square = _to_square(coloured, options)
    pixels = np.asarray(square).reshape(options.resolution, options.resolution, options.channels)
    if options.channels == 4:
        # The colour of invisible pixels is arbitrary; one value lets equal pictures be equal bytes.
        pixels = pixels.copy()
        pixels[pixels[..., 3] == 0, :3] = _rgb(options.background)
        pixels.flags.writeable = False
        square = Image.fromarray(pixels)
    return Decoded(pixels, square, width, height, mode)


def _upright(image: Image.Image) -> Image.Image:
    try:
        # Most images have no orientation, and the library would copy those.
        return ImageOps.exif_transpose(image) if image.getexif().get(ORIENTATION, 1) != 1 else image
    # Damaged metadata of a whole picture, such as an EXIF block without a TIFF header.
    except (SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return image


def _to_8_bit(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadImageError("floating-point samples have no agreed range; convert it to 8 or 16 bit")
    if image.mode not in SIXTEEN_BIT:
        return image
    samples = np.asarray(image).astype(np.int64)
    if samples.min() < 0 or samples.max() > 65535:
        raise BadImageError("samples of more than 16 bit; convert it to 8 or 16 bit")
    return Image.fromarray(((samples + 128) // 257).astype(np.uint8))


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _to_channels(image: Image.Image, options: DecodeOptions) -> Image.Image:
    if options.channels == 4:
        return image.convert("RGBA")
    if image.has_transparency_data:
        behind = Image.new("RGBA", image.size, (*_rgb(options.background), 255))
        image = Image.alpha_composite(behind, image.convert("RGBA"))
    mode = "L" if options.channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _to_square(image: Image.Image, options: DecodeOptions) -> Image.Image:
    side, resample = options.resolution, FILTERS[options.resize_filter]
    width, height = image.size
    if options.fit == "pad" and width != height:
        return _padded(image, options)
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    cut = (left, top, left + short, top + short) if options.fit == "crop" else (0, 0, width, height)
    if image.size == (side, side):
        return image
    if cut[2] - cut[0] == side and cut[3] - cut[1] == side:
        return image.crop(cut)
    factor, rest = divmod(cut[2] - cut[0], side)
    if options.resize_filter == "box" and rest == 0 and cut[3] - cut[1] == factor * side:
        return _averaged(image.crop(cut), factor)
    return image.resize((side, side), resample, box=cut)


def _averaged(image: Image.Image, factor: int) -> Image.Image:
    """Return exact means of factor x factor pixels, rounded once; Pillow's own ways round more often."""
    pixels = np.asarray(image)
    side = image.width // factor
    blocks = pixels.reshape(side, factor, side, factor, -1)
    weights = factor * factor
    if image.mode != "RGBA":
        sums = blocks.sum(axis=(1, 3), dtype=np.uint32)
        means = (sums + weights // 2) // weights
        return Image.fromarray(means.astype(np.uint8).reshape(side, side, *pixels.shape[2:]))
    alpha = blocks[..., 3:].astype(np.uint32)
    opacity = alpha.sum(axis=(1, 3))
    seen = (blocks[..., :3] * alpha).sum(axis=(1, 3))
    colour = (seen + opacity // 2) // np.maximum(opacity, 1)
    means = np.concatenate([colour, (opacity + weights // 2) // weights], axis=2)
    return Image.fromarray(means.astype(np.uint8))


def _padded(image: Image.Image, options: DecodeOptions) -> Image.Image:
    # Resizing comes first, so that padding a long thin image never makes a huge square.
    side, longest = options.resolution, max(image.size)
    width, height = (max(1, round(length * side / longest)) for length in image.size)
    inner = image.resize((width, height), FILTERS[options.resize_filter])
    red, green, blue = _rgb(options.background)
    fill: dict[str, int | tuple[int, ...]] = {
        "L": Image.new("RGB", (1, 1), (red, green, blue)).convert("L").tobytes()[0],
        "RGB": (red, green, blue),
        "RGBA": (red, green, blue, 0),
    }
    square = Image.new(image.mode, (side, side), fill[image.mode])
    square.paste(inner, ((side - width) // 2, (side - height) // 2))
    return square
