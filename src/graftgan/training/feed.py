"""Training images on their way to the networks: decoded once, and on a GPU from the start where they fit."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftgan.device import send

RESIDENT_SHARE = 0.25
"""Share of a GPU's free memory that images may take."""


class Feed:
    """Gives out batches by row numbers.

    A GPU holds all images as they are stored, if they take no more than `RESIDENT_SHARE` of its free memory:
    then the host sends row numbers alone. Else pixels go through pinned memory, in a stream of their own: the
    host does not wait, and while a batch travels the device works on the step before.

    Args:
        images: uint8 [N, R, R, C].
        device: Where batches are wanted.
        resident: Whether the device holds all images; None decides as said.
    """

    def __init__(self, images: NDArray[np.uint8], device: torch.device, resident: bool | None = None) -> None:
        self.images, self.device = images, device
        fits = fits_on(images.nbytes, device) if resident is None else resident
        self.resident = torch.from_numpy(np.array(images)).to(device) if fits else None
        self._road = torch.cuda.Stream(device) if self.kind == "pinned" else None

    @property
    def kind(self) -> str:
        """How batches come: "resident" on the device, or through "pinned" or plain "host" memory."""
        if self.resident is not None:
            return "resident"
        return "pinned" if self.device.type == "cuda" else "host"

    def batch(self, rows: NDArray[np.intp]) -> Tensor:
        """Return images as float32 [n, C, R, R] in [-1, 1]."""
        if self.resident is None:
            pixels = self._sent(torch.from_numpy(self.images[rows]))
        else:
            pixels = self.resident.index_select(0, send(torch.from_numpy(rows), self.device))
        return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1

    def _sent(self, pixels: Tensor) -> Tensor:
        if self._road is None:
            return send(pixels, self.device)
        with torch.cuda.stream(self._road):
            there = send(pixels, self.device)
        work = torch.cuda.current_stream(self.device)
        work.wait_stream(self._road)
        # Its memory belongs to the other stream, which must not use it again before this one is done.
        there.record_stream(work)
        return there


def fits_on(size_bytes: int, device: torch.device) -> bool:
    """Tell whether a GPU has room for so many bytes of images; a CPU needs no copy."""
    if device.type != "cuda":
        return False
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return size_bytes <= RESIDENT_SHARE * free_bytes
