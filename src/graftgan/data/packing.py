"""Decodes many images, on several processes where that pays; the bytes do not depend on how many."""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
import signal
import threading
import time
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
from graftgan.data.slots import PixelSlots
from graftgan.data.sources import RawImage
from graftgan.errors import TryAgain

# A process costs its imports, more than half a second: this one works alone until it knows the pace.
ALONE_S = 0.5
REST_FOR_PROCESSES_S = 2.0
CHUNK_IMAGES = 32
CHUNK_BYTES = 32 << 20
CHUNKS_IN_FLIGHT = 3
PHASH_SIZE = 8
# All coefficients of an image of one colour are rounding noise.
BLANK_PHASH = "0" * (PHASH_SIZE**2 // 4)
# The hash keeps the lowest 8 x 8 frequencies, which means over blocks down to this size hardly touch.
PHASH_LEAST_PX = 64

_Work = tuple[int, list[RawImage], DecodeOptions, PixelSlots]


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
        phash: Perceptual hash of the pixels, 16 hex digits; zeros for an image of one colour.
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


def perceptual_hash(picture: Image.Image) -> str:
    """Return the 64-bit DCT hash of the `imagehash` library as hex, for an image that is not of one colour.

    Images of 128 pixels and more are first averaged over blocks, to 64 pixels or up to twice as many.
    """
    factor = picture.width // PHASH_LEAST_PX
    found = imagehash.phash(picture.reduce(factor) if factor > 1 else picture, hash_size=PHASH_SIZE)
    # What its `str` gives, which joins the bits as text.
    return np.packbits(found.hash).tobytes().hex()


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
    blank = is_blank(image.pixels)
    return Packed(
        name=raw.name,
        label=raw.label,
        group=raw.group,
        pixels=image.pixels,
        width=image.width,
        height=image.height,
        mode=image.mode,
        sha256=hashlib.sha256(image.pixels.data).hexdigest(),
        phash=BLANK_PHASH if blank else perceptual_hash(image.picture),
        blank=blank,
    )


def pack_all(
    images: Iterable[RawImage], total: int, options: DecodeOptions, slots: PixelSlots, workers: int = 1
) -> Generator[Packed, None, None]:
    """Decode images, write their pixels where they belong, and yield the facts in the order given.

    Args:
        images: The images; read only as fast as they are decoded.
        total: How many there are.
        options: How to decode.
        slots: The n-th image's pixels go to the n-th slot; that of a bad image stays as it is.
        workers: Number of processes; none are made for less than `REST_FOR_PROCESSES_S` of computing.

    Raises:
        TryAgain: If a process was killed, as happens when memory runs out.
    """
    started_s, numbered = time.process_time(), enumerate(images)
    for index, raw in numbered:
        yield _store(index, [raw], options, slots)[0]
        taken_s = time.process_time() - started_s
        rest_s = taken_s / (index + 1) * (total - index - 1)
        if workers > 1 and taken_s >= ALONE_S and rest_s >= REST_FOR_PROCESSES_S:
            break
    else:
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        work = ((index, chunk, options, slots) for index, chunk in _chunks(numbered))
        yield from _in_order(pool, work, workers * CHUNKS_IN_FLIGHT)
    except BrokenProcessPool:
        raise TryAgain(
            "a decoding process was killed or did not start, perhaps for want of memory",
            "set runtime.workers: 1 or lower data.max_pixels, and run again",
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, work: Iterator[_Work], in_flight: int) -> Iterator[Packed]:
    waiting: deque[Future[list[Packed]]] = deque()
    for arguments in work:
        waiting.append(pool.submit(_store, *arguments))
        if len(waiting) >= in_flight:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


def _chunks(numbered: Iterable[tuple[int, RawImage]]) -> Iterator[tuple[int, list[RawImage]]]:
    """Join neighbours; with each chunk comes the number of its first image."""
    chunk: list[RawImage] = []
    first = size = 0
    for index, raw in numbered:
        first = first if chunk else index
        chunk.append(raw)
        size += len(raw.data)
        if len(chunk) >= CHUNK_IMAGES or size >= CHUNK_BYTES:
            yield first, chunk
            chunk, size = [], 0
    if chunk:
        yield first, chunk


def _store(first: int, chunk: list[RawImage], options: DecodeOptions, slots: PixelSlots) -> list[Packed]:
    """Pack neighbours; their pixels go to the file from here, since a pipe would cost as much again."""
    facts = []
    with slots.open() as file:
        for index, raw in enumerate(chunk, first):
            packed = pack_one(raw, options)
            if packed.pixels is not None:
                slots.write(file, index, packed.pixels)
            facts.append(packed.without_pixels())
    return facts


def _start_worker() -> None:
    # The parent alone answers Ctrl-C; and a worker whose parent was killed must not wait for work for ever.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What was imported is no garbage, and there is much to look through for every few hundred images.
    gc.freeze()
    parent = multiprocessing.parent_process()
    if parent is not None:
        _exit_after(lambda: wait([parent.sentinel]))


def _exit_after(event: Callable[[], object]) -> None:
    def watch() -> None:
        event()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
