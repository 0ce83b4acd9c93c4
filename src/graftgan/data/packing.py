"""Decodes many images on several processes and packs them in order; the bytes do not depend on how many."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.connection import wait

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image

from graftgan.data.decoding import BadImageError, DecodeOptions, decode
from graftgan.data.sources import RawImage
from graftgan.errors import TryAgain

MIN_IMAGES_FOR_PROCESSES = 500
CHUNK_IMAGES = 32
CHUNK_BYTES = 32 << 20
CHUNKS_IN_FLIGHT = 3
PHASH_SIZE = 8


@dataclass(frozen=True)
class Packed:
    """One image after decoding, or the reason why there is none.

    Attributes:
        name: Name in the source.
        label: Name of its class, or None.
        group: Group, empty for none.
        bad: Why it is unusable, or empty; the rest is then without meaning.
        pixels: uint8 [R, R, C].
        width: Width of the original.
        height: Height of the original.
        mode: Pillow's mode of the original.
        sha256: Of the pixels.
        phash: Perceptual hash of the pixels, 16 hex digits.
        blank: Whether all pixels are equal.
    """

    name: str
    label: str | None
    group: str
    bad: str = ""
    pixels: npt.NDArray[np.uint8] | None = None
    width: int = 0
    height: int = 0
    mode: str = ""
    sha256: str = ""
    phash: str = ""
    blank: bool = False

    def without_pixels(self) -> Packed:
        """Return the same facts without the pixels, to be kept when those are stored."""
        return replace(self, pixels=None)


def perceptual_hash(pixels: npt.NDArray[np.uint8]) -> str:
    """Return the 64-bit DCT hash of the `imagehash` library as hex; all zeros for an image of one colour."""
    if is_blank(pixels):
        # All coefficients are rounding noise there.
        return "0" * (PHASH_SIZE**2 // 4)
    grey = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return str(imagehash.phash(grey, hash_size=PHASH_SIZE))


def is_blank(pixels: npt.NDArray[np.uint8]) -> bool:
    """Tell whether all pixels have the same colour."""
    colour = pixels[:1, :1]
    return bool((pixels[:1] == colour).all() and (pixels == colour).all())


def pack_one(raw: RawImage, options: DecodeOptions) -> Packed:
    """Decode one image and take its fingerprints."""
    if raw.bad:
        return Packed(raw.name, raw.label, raw.group, raw.bad)
    try:
        image = decode(raw.data, options)
    except BadImageError as error:
        return Packed(raw.name, raw.label, raw.group, str(error))
    return Packed(
        name=raw.name,
        label=raw.label,
        group=raw.group,
        pixels=image.pixels,
        width=image.width,
        height=image.height,
        mode=image.mode,
        sha256=hashlib.sha256(image.pixels.tobytes()).hexdigest(),
        phash=perceptual_hash(image.pixels),
        blank=is_blank(image.pixels),
    )


def pack_all(
    images: Iterable[RawImage], total: int, options: DecodeOptions, workers: int = 1
) -> Generator[Packed, None, None]:
    """Decode images and yield them in the order given.

    Args:
        images: The images; read only as fast as they are decoded.
        total: How many there are; below `MIN_IMAGES_FOR_PROCESSES` one process does it.
        options: How to decode.
        workers: Number of processes.

    Raises:
        TryAgain: If a process was killed, as happens when memory runs out.
    """
    if workers == 1 or total < MIN_IMAGES_FOR_PROCESSES:
        for raw in images:
            yield pack_one(raw, options)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        yield from _in_order(pool, _chunks(images), options, workers * CHUNKS_IN_FLIGHT)
    except BrokenProcessPool:
        raise TryAgain(
            "a decoding process was killed or did not start, perhaps for want of memory",
            "set runtime.workers: 1 or lower data.max_pixels, and run again",
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor, chunks: Iterator[list[RawImage]], options: DecodeOptions, in_flight: int
) -> Iterator[Packed]:
    waiting: deque[Future[list[Packed]]] = deque()
    for chunk in chunks:
        waiting.append(pool.submit(_pack_chunk, chunk, options))
        if len(waiting) >= in_flight:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


def _chunks(images: Iterable[RawImage]) -> Iterator[list[RawImage]]:
    chunk: list[RawImage] = []
    size = 0
    for raw in images:
        chunk.append(raw)
        size += len(raw.data)
        if len(chunk) >= CHUNK_IMAGES or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _pack_chunk(chunk: list[RawImage], options: DecodeOptions) -> list[Packed]:
    return [pack_one(raw, options) for raw in chunk]


def _start_worker() -> None:
    # The parent alone answers Ctrl-C; and a worker whose parent was killed must not wait for work for ever.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        _exit_after(lambda: wait([parent.sentinel]))


def _exit_after(event: Callable[[], object]) -> None:
    def watch() -> None:
        event()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
