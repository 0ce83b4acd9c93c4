"""Pictures and image sets made for the tests."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from graftgan.config import Data
from graftgan.data.decoding import DecodeOptions


def options(**values: Any) -> DecodeOptions:
    return DecodeOptions.of(Data(**values))


def noise(seed: int, width: int = 48, height: int = 48, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(seed: int, side: int = 48) -> Image.Image:
    """A picture of large soft blobs, as far from any other seed as photographs are from each other."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def encode(image: Image.Image | np.ndarray, kind: str = "PNG", **how: Any) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def write_folder(root: Path, count: int = 20, side: int = 48, subfolder: str = "") -> Path:
    folder = root / subfolder
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        (folder / f"{seed:03}.png").write_bytes(encode(smooth(seed, side)))
    return root


def write_zip(path: Path, members: dict[str, bytes | str], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path
