"""Pictures as `data:` addresses, so that the report is one file."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from graftgan.errors import MissingInput
from graftgan.reporting.sheets import Pixels, png_bytes, to_rgb

MIME = {"PNG": "image/png", "GIF": "image/gif"}
MAX_BYTES = 400_000
MAX_GIF_BYTES = 4_000_000
MAX_SIDE_PX = 2048
WEBP_QUALITY = 82


@dataclass(frozen=True)
class Picture:
    """One picture, ready for the page.

    Attributes:
        uri: The whole picture as a `data:` address.
        alt: What it shows, for those who cannot see it.
        width: Natural width in pixels.
        height: Natural height in pixels.
    """

    uri: str
    alt: str
    width: int
    height: int


def from_array(array: Pixels, alt: str) -> Picture | None:
    """Embed a sheet, uint8 [H, W, C]."""
    return _from_bytes(png_bytes(to_rgb(array)), alt, "a drawn sheet")


def from_file(path: Path, alt: str, within: Path) -> Picture | None:
    """Embed a PNG or GIF file; large PNG files are reduced to WebP, too large GIF files are left out.

    Args:
        path: The file.
        alt: What it shows.
        within: Folder that the file must lie in, since names come from files that could be tampered with.

    Returns:
        The picture, or None where there is no such file or it is too large.

    Raises:
        MissingInput: If the file is outside the folder or is not a PNG or GIF image.
    """
    if not path.resolve().is_relative_to(within.resolve()):
        raise MissingInput(f"{path} lies outside {within}", "run the stage that made it again")
    return _from_bytes(path.read_bytes(), alt, str(path)) if path.is_file() else None


def _from_bytes(content: bytes, alt: str, origin: str) -> Picture | None:
    try:
        with Image.open(io.BytesIO(content), formats=list(MIME)) as image:
            mime, (width, height) = MIME[str(image.format)], image.size
            if image.format == "GIF" and len(content) > MAX_GIF_BYTES:
                return None
            if image.format == "PNG" and len(content) > MAX_BYTES:
                content, mime, width, height = _reduce(image)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise MissingInput(
            f"{origin} is not a PNG or GIF image: {error}", "run the stage that made it again"
        ) from None
    except Image.DecompressionBombError:
        return None
    return Picture(f"data:{mime};base64,{base64.b64encode(content).decode()}", alt, width, height)


def _reduce(image: Image.Image) -> tuple[bytes, str, int, int]:
    smaller = image.convert("RGB")
    smaller.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX * 4), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    smaller.save(buffer, "WEBP", quality=WEBP_QUALITY, method=4)
    return buffer.getvalue(), "image/webp", smaller.width, smaller.height
