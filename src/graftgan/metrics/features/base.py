"""What a feature extractor is, and the one batching loop that all of them share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftgan.metrics.features.resize import resize_images

BATCH_IMAGES = 16

VALUE_RANGES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "0_255": ((0.0,) * 3, (1.0,) * 3),
    "0_1": ((0.0,) * 3, (255.0,) * 3),
    "-1_1": ((127.5,) * 3, (127.5,) * 3),
    "127_128": ((127.0,) * 3, (128.0,) * 3),
    "128_128": ((128.0,) * 3, (128.0,) * 3),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}
"""Offset and divisor of each channel, applied to values from 0 to 255."""


@runtime_checkable
class Extractor(Protocol):
    """Turns images into feature rows.

    Attributes:
        name: how scores are named after it.
        dim: features an image.
        input_px: side to which images are resized.
        protocol: id of everything that decides the features; rows of different ids are never compared.
        device: where it computes; the same protocol has other last bits elsewhere.
    """

    name: str
    dim: int
    input_px: int
    protocol: str
    device: torch.device

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features ``[N, dim]`` of uint8 images ``[N, H, W, 1 or 3]``."""
        ...


def protocol_id(name: str, input_px: int, resize: str, value_range: str, weights_sha256: str) -> str:
    """Readable protocol id that ends in a hash of all its fields.

    Returns:
        For example ``efflite0@224/bicubic-aa/`` and 12 hex digits.
    """
    fields = json.dumps([name, input_px, resize, value_range, weights_sha256])
    return f"{name}@{input_px}/{resize}/{hashlib.sha256(fields.encode()).hexdigest()[:12]}"


class BatchedExtractor:
    """Extractor around a network, run at one fixed batch size.

    A last, short batch is padded: the same kernels then see the same shapes for every call, and the features
    of an image do not depend on what else was in the call. Bytes are the same for the same machine, device
    and number of threads, which the caller fixes.

    Attributes:
        name: see `Extractor`.
        dim: see `Extractor`.
        input_px: see `Extractor`.
        protocol: see `Extractor`.
        device: see `Extractor`.
    """

    def __init__(
        self,
        name: str,
        network: Callable[[Tensor], Tensor],
        *,
        input_px: int,
        resize: str,
        value_range: str,
        weights_sha256: str,
        device: str = "cpu",
        batch: int = BATCH_IMAGES,
    ) -> None:
        """Wrap a network; its dimension is learnt from one blank run.

        Args:
            name: extractor name.
            network: float32 ``[batch, 3, px, px]`` in the value range to ``[batch, dim]``, on ``device``.
            input_px: side of the network's input.
            resize: a kind of `resize_images`.
            value_range: a key of `VALUE_RANGES`.
            weights_sha256: digest of the weight file.
            device: torch device.
            batch: images a run.

        Raises:
            ValueError: the network's output is not one row an image.
        """
        self.name = name
        self.input_px = input_px
        self.protocol = protocol_id(name, input_px, resize, value_range, weights_sha256)
        self._network = network
        self._resize = resize
        self.device = torch.device(device)
        self._batch = batch
        offset, divisor = VALUE_RANGES[value_range]
        self._offset = torch.tensor(offset, device=self.device).view(1, 3, 1, 1)
        self._divisor = torch.tensor(divisor, device=self.device).view(1, 3, 1, 1)
        self.dim = self._probed_dim()

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features ``[N, dim]`` of uint8 images ``[N, H, W, 1 or 3]``; grey is repeated to three channels.

        Raises:
            ValueError: not uint8 NHWC with one or three channels.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise ValueError(f"expected uint8 [N, H, W, 1 or 3], got {images.dtype} {images.shape}")
        features = np.empty((len(images), self.dim), dtype=np.float32)
        for start in range(0, len(images), self._batch):
            part = images[start : start + self._batch]
            padding = np.zeros((self._batch - len(part), *part.shape[1:]), dtype=np.uint8)
            full = np.concatenate([part, padding]) if len(padding) else part
            features[start : start + len(part)] = self._run(full)[: len(part)]
        return features

    def _probed_dim(self) -> int:
        side = self.input_px
        probe = self._run(np.zeros((self._batch, side, side, 3), dtype=np.uint8))
        if probe.ndim != 2 or len(probe) != self._batch:
            raise ValueError(f"{self.name}: expected features [{self._batch}, dim], got shape {probe.shape}")
        return int(probe.shape[1])

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode(), _exact_convolutions(self.device):
            pixels = torch.from_numpy(np.array(images)).to(self.device).permute(0, 3, 1, 2).float()
            pixels = resize_images(pixels, self._resize, self.input_px).expand(-1, 3, -1, -1)
            values = (pixels - self._offset).div_(self._divisor).contiguous(memory_format=torch.channels_last)
            features: NDArray[np.float32] = self._network(values).float().cpu().numpy()
        return features


def _exact_convolutions(device: torch.device) -> AbstractContextManager[None]:
    """TF32 would round features to ten bits on recent GPUs, and benchmarking would vary the kernels."""
    if device.type != "cuda":
        return nullcontext()
    exact: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return exact
