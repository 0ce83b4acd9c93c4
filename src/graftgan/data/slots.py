"""The file of pixels while it is written; its imports are few, since every decoding process pays for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class PixelSlots:
    """The places of images in a `.npy` file that is being written; any process may fill any of them.

    Attributes:
        path: The file.
        shape: Shape of one image (R, R, C).
        start_bytes: Where the first image begins.
    """

    path: Path
    shape: tuple[int, int, int]
    start_bytes: int

    @property
    def size_bytes(self) -> int:
        """Bytes of one image."""
        return math.prod(self.shape)

    def open(self) -> IO[bytes]:
        """Open the file to fill slots."""
        return self.path.open("r+b")

    def write(self, file: IO[bytes], index: int, pixels: npt.NDArray[np.uint8]) -> None:
        """Write one image, uint8 [R, R, C], into the slot `index` of the file opened by `open`."""
        assert pixels.shape == self.shape and pixels.dtype == np.uint8
        file.seek(self.start_bytes + index * self.size_bytes)
        file.write(np.ascontiguousarray(pixels).data)


class PixelWriter:
    """Makes a `.npy` file of images whose number is not known beforehand; use as a context manager.

    Images are appended one by one; or the slots are filled, by whomever, and `keep` tells which count.

    Args:
        path: File to make.
        resolution: Side R in pixels.
        channels: Channels C.
    """

    def __init__(self, path: Path, resolution: int, channels: int) -> None:
        self._shape = (resolution, resolution, channels)
        self._file = path.open("wb")
        self.count = 0
        self._write_header()
        self._file.flush()
        self.slots = PixelSlots(path, self._shape, self._file.tell())

    def __enter__(self) -> PixelWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._file.seek(0)
                self._write_header()
                assert self._file.tell() == self.slots.start_bytes
        finally:
            self._file.close()

    def append(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Write one image, uint8 [R, R, C]."""
        self.slots.write(self._file, self.count, pixels)
        self.count += 1

    def expect(self, images: int) -> None:
        """Make room for so many slots at once, which is faster than growing; `keep` cuts off the rest."""
        self._file.truncate(self.slots.start_bytes + images * self.slots.size_bytes)

    def keep(self, indices: Sequence[int]) -> None:
        """Close up the images in some of the slots, named in ascending order, and drop the others."""
        size, start = self.slots.size_bytes, self.slots.start_bytes
        with self.slots.open() as file:
            for place, index in enumerate(indices):
                if place != index:
                    file.seek(start + index * size)
                    pixels = file.read(size)
                    file.seek(start + place * size)
                    file.write(pixels)
            file.truncate(start + len(indices) * size)
        self.count = len(indices)

    def _write_header(self) -> None:
        # numpy pads the header so that the first dimension can grow in place.
        header = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, header)
