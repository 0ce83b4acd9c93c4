from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pytest
from PIL import Image

from graftgan.data import packing
from graftgan.data.packing import Packed, is_blank, pack_all, pack_one, perceptual_hash
from graftgan.data.slots import PixelWriter
from graftgan.data.sources import RawImage
from graftgan.errors import TryAgain

from .pictures import encode, noise, options, smooth

PLAIN = options(resolution=32)


def raws(count: int) -> Iterator[RawImage]:
    for seed in range(count):
        data = b"broken" if seed % 7 == 3 else encode(smooth(seed, 16))
        yield RawImage(f"{seed}.png", data, str(seed % 3), f"g{seed}")


def pack(path: Path, images: Iterable[RawImage], total: int, workers: int = 1) -> tuple[list[Packed], bytes]:
    """Return the facts, and the bytes of the file of the good images."""
    with PixelWriter(path, 32, 3) as writer:
        packed = list(pack_all(images, total, PLAIN, writer.slots, workers))
        writer.keep([index for index, image in enumerate(packed) if not image.bad])
    return packed, path.read_bytes()


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make processes after the first image."""
    monkeypatch.setattr(packing, "ALONE_S", 0.0)
    monkeypatch.setattr(packing, "REST_FOR_PROCESSES_S", 0.0)


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
    packed = pack_one(RawImage("a", encode(flat.squeeze())), options(resolution=32, channels=channels))
    assert is_blank(flat) and packed.blank and packed.phash == "0" * 16
    flat[31, 31, -1] = 0
    assert not is_blank(flat)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_perceptual_hash_hardly_depends_on_the_size_of_the_picture(channels: int) -> None:
    """Averaging first is 3 times faster, and must give what the library gives for the whole picture."""
    small = np.random.default_rng(channels).integers(0, 256, (8, 8, channels), dtype=np.uint8)
    for side in (64, 128, 256, 512):
        image = Image.fromarray(small[..., 0] if channels == 1 else small).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        whole = imagehash.phash(image, hash_size=8)
        distance = imagehash.hex_to_hash(perceptual_hash(image)) - whole
        assert distance == 0 if side < 128 else distance <= 2


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_hashes_are_those_of_the_pixels_that_are_packed(kind: str, channels: int) -> None:
    """They are taken from the decoder's picture, never from one made of the pixels, which must not show."""
    clear = np.dstack([np.asarray(smooth(4, 256)), np.arange(65536, dtype=np.uint32).reshape(256, 256) >> 8])
    image = Image.fromarray(clear.astype(np.uint8))
    raw = RawImage("a", encode(image.convert("RGB") if kind == "JPEG" else image, kind))
    packed = pack_one(raw, options(resolution=128, channels=channels))
    assert packed.pixels is not None
    again = Image.fromarray(packed.pixels[..., 0] if channels == 1 else packed.pixels)
    assert packed.phash == str(imagehash.phash(again.reduce(2), hash_size=8))


def test_a_decoding_process_imports_little() -> None:
    """Each of them pays for what this module reaches."""
    code = "import sys, graftgan.data.packing; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    reached = set(done.stdout.split())
    assert "PIL" in reached and not reached & {"pandas", "pyarrow", "pydantic", "scipy", "torch"}


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_perceptual_hash_of_every_channel_count(channels: int) -> None:
    a = pack_one(RawImage("a", encode(smooth(1))), options(resolution=32, channels=channels))
    b = pack_one(RawImage("a", encode(smooth(1), "JPEG")), options(resolution=32, channels=channels))
    distance = (int(a.phash, 16) ^ int(b.phash, 16)).bit_count()
    assert distance <= 4 and a.sha256 != b.sha256


def test_any_number_of_workers_gives_the_same_bytes_in_the_same_order(tmp_path: Path, eager: None) -> None:
    alone, two, three = (pack(tmp_path / f"{n}.npy", raws(140), 140, n) for n in (1, 2, 3))
    assert [p.name for p in alone[0]] == [f"{seed}.png" for seed in range(140)]
    assert sum(bool(p.bad) for p in alone[0]) == 20 and all(p.pixels is None for p in alone[0])
    assert alone == two == three
    rows = np.load(tmp_path / "1.npy")
    good = [pack_one(raw, PLAIN) for raw in raws(140)]
    np.testing.assert_array_equal(rows, [p.pixels for p in good if p.pixels is not None])


@pytest.mark.parametrize(
    ("pause_s", "rest_s", "processes"),
    [(0.001, 30.0, False), (0.001, 0.01, True), (0.0, 0.0, True)],
)
def test_processes_are_made_only_where_enough_is_left_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pause_s: float, rest_s: float, processes: bool
) -> None:
    monkeypatch.setattr(packing, "ALONE_S", 10 * pause_s)
    monkeypatch.setattr(packing, "REST_FOR_PROCESSES_S", rest_s)
    made: list[int] = []

    class Pool(ProcessPoolExecutor):
        def __init__(self, workers: int, **how: Any) -> None:
            made.append(workers)
            super().__init__(workers, **how)

    monkeypatch.setattr(packing, "ProcessPoolExecutor", Pool)

    def slow() -> Iterator[RawImage]:
        for raw in raws(60):
            until_s = time.process_time() + pause_s
            while time.process_time() < until_s:
                pass
            yield raw

    packed, _ = pack(tmp_path / "x.npy", slow(), 60, 2)
    assert made == ([2] if processes else []) and [p.name for p in packed] == [r.name for r in raws(60)]


def test_images_are_read_only_as_fast_as_they_are_decoded(tmp_path: Path, eager: None) -> None:
    read = 0

    def counted() -> Iterator[RawImage]:
        nonlocal read
        for raw in raws(1000):
            read += 1
            yield raw

    with PixelWriter(tmp_path / "x.npy", 32, 3) as writer:
        stream = pack_all(counted(), 1000, PLAIN, writer.slots, workers=2)
        next(stream)
        assert read == 1
        next(stream)
        assert read <= 1 + 2 * packing.CHUNKS_IN_FLIGHT * packing.CHUNK_IMAGES
        stream.close()
    assert read < 1000


def test_chunks_are_bounded_in_bytes() -> None:
    large = [RawImage(str(i), bytes(packing.CHUNK_BYTES // 2)) for i in range(5)]
    sizes = [(first, len(chunk)) for first, chunk in packing._chunks(enumerate(large))]
    assert sizes == [(0, 2), (2, 2), (4, 1)]
    sizes = [(first, len(chunk)) for first, chunk in packing._chunks(enumerate(raws(70), 5))]
    assert sizes == [(5, 32), (37, 32), (69, 6)]


def test_a_killed_worker_is_a_passing_condition(tmp_path: Path, eager: None) -> None:
    slots = PixelWriter(tmp_path / "x.npy", 32, 3).slots
    stream = pack_all(raws(400), 400, PLAIN, slots, workers=2)
    next(stream), next(stream)
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
from graftgan.data.slots import PixelWriter
from graftgan.data.decoding import DecodeOptions

if __name__ == "__main__":
    packing.ALONE_S = packing.REST_FOR_PROCESSES_S = 0.0
    slots = PixelWriter(Path(sys.argv[1]), 32, 3).slots
    images = (RawImage("x", b"x") for _ in range(10**6))
    stream = packing.pack_all(images, 10**6, DecodeOptions.of(Data()), slots, 2)
    next(stream), next(stream)
    task = Path("/proc/self/task").joinpath(str(__import__("os").getpid()), "children")
    print(task.read_text(), flush=True)
    sys.stdin.read()
"""


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    command = [sys.executable, script, tmp_path / "x.npy"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
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
