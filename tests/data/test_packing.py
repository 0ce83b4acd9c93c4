from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from graftgan.data import packing
from graftgan.data.packing import Packed, is_blank, pack_all, pack_one, perceptual_hash
from graftgan.data.sources import RawImage
from graftgan.errors import TryAgain

from .pictures import encode, noise, options, smooth

PLAIN = options(resolution=32)


def raws(count: int) -> Iterator[RawImage]:
    for seed in range(count):
        data = b"broken" if seed % 7 == 3 else encode(smooth(seed, 16))
        yield RawImage(f"{seed}.png", data, str(seed % 3), f"g{seed}")


def facts(packed: list[Packed]) -> list[tuple[object, ...]]:
    return [(p.without_pixels(), None if p.pixels is None else p.pixels.tobytes()) for p in packed]


def test_fingerprints() -> None:
    array = noise(0, 32, 32)
    packed = pack_one(RawImage("a.png", encode(array), "cat", "g"), PLAIN)
    assert packed.pixels is not None and not packed.bad and not packed.blank
    assert packed.sha256 == hashlib.sha256(array.tobytes()).hexdigest()
    assert (packed.name, packed.label, packed.group) == ("a.png", "cat", "g")
    assert (packed.width, packed.height, packed.mode) == (32, 32, "RGB")
    assert len(packed.phash) == 16 and int(packed.phash, 16) > 0


def test_bad_images_keep_their_name_and_reason() -> None:
    assert pack_one(RawImage("a.png", b"no"), PLAIN).bad == "not an image in an accepted format"
    assert pack_one(RawImage("a.png", b"", bad="encrypted"), PLAIN) == Packed("a.png", None, "", "encrypted")


def test_equal_pixels_have_equal_fingerprints_whatever_the_file() -> None:
    array = noise(0, 32, 32)
    png, bmp = (pack_one(RawImage(k, encode(array, k)), PLAIN) for k in ("PNG", "BMP"))
    assert (png.sha256, png.phash) == (bmp.sha256, bmp.phash)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_blank_images_hash_to_zero(channels: int) -> None:
    flat = np.full((32, 32, channels), 200, dtype=np.uint8)
    assert is_blank(flat) and perceptual_hash(flat) == "0" * 16
    flat[31, 31, -1] = 0
    assert not is_blank(flat)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_perceptual_hash_of_every_channel_count(channels: int) -> None:
    a = pack_one(RawImage("a", encode(smooth(1))), options(resolution=32, channels=channels))
    b = pack_one(RawImage("a", encode(smooth(1), "JPEG")), options(resolution=32, channels=channels))
    distance = (int(a.phash, 16) ^ int(b.phash, 16)).bit_count()
    assert distance <= 4 and a.sha256 != b.sha256


def test_any_number_of_workers_gives_the_same_bytes_in_the_same_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packing, "MIN_IMAGES_FOR_PROCESSES", 50)
    alone, two, three = (list(pack_all(raws(140), 140, PLAIN, workers)) for workers in (1, 2, 3))
    assert [p.name for p in alone] == [f"{seed}.png" for seed in range(140)]
    assert sum(bool(p.bad) for p in alone) == 20
    assert facts(alone) == facts(two) == facts(three)


def test_images_are_read_only_as_fast_as_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MIN_IMAGES_FOR_PROCESSES", 1)
    read = 0

    def counted() -> Iterator[RawImage]:
        nonlocal read
        for raw in raws(1000):
            read += 1
            yield raw

    stream = pack_all(counted(), 1000, PLAIN, workers=2)
    next(stream)
    assert read <= 2 * packing.CHUNKS_IN_FLIGHT * packing.CHUNK_IMAGES
    stream.close()
    assert read < 1000


def test_chunks_are_bounded_in_bytes() -> None:
    large = [RawImage(str(i), bytes(packing.CHUNK_BYTES // 2)) for i in range(5)]
    assert [len(chunk) for chunk in packing._chunks(large)] == [2, 2, 1]
    assert [len(chunk) for chunk in packing._chunks(raws(70))] == [32, 32, 6]


def test_a_killed_worker_is_a_passing_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MIN_IMAGES_FOR_PROCESSES", 1)
    stream = pack_all(raws(400), 400, PLAIN, workers=1 + 1)
    next(stream)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for child in map(int, children):
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(child, signal.SIGKILL)
    with pytest.raises(TryAgain, match="killed") as error:
        list(stream)
    assert "runtime.workers" in error.value.remedy


ORPHAN = """
import sys
from pathlib import Path
from graftgan.data import packing
from graftgan.data.sources import RawImage
from graftgan.config import Data
from graftgan.data.decoding import DecodeOptions

if __name__ == "__main__":
    packing.MIN_IMAGES_FOR_PROCESSES = 1
    images = (RawImage("x", b"x") for _ in range(10**6))
    stream = packing.pack_all(images, 10**6, DecodeOptions.of(Data()), 2)
    next(stream)
    task = Path("/proc/self/task").joinpath(str(__import__("os").getpid()), "children")
    print(task.read_text(), flush=True)
    sys.stdin.read()
"""


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    with subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        children = [int(child) for child in parent.stdout.readline().split()]
        parent.kill()
    assert len(children) >= 2
    deadline = time.monotonic() + 20
    while any(_alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(child) for child in children)


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
