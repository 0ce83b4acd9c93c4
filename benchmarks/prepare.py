"""How fast `prepare` packs a folder, beside the same images merely decoded by as many processes, in one run.

    python benchmarks/prepare.py [--images 10000] [--side-px 256] [--workers 2] [--rounds 2]
        [--formats jpeg png] [--pictures photo|soft] [--quick]

JPEG files of the very side are what is cheapest to decode; PNG is how most data sets for GANs are stored.
Larger images only add to decoding. The pictures of `photo` have the spectrum of photographs, whose amplitude
falls as the frequency to the power of -1.2 (Tolhurst, Tadmor and Chao 1992, the mean of 135); those of `soft`
are 8 x 8 random colours, smoothly enlarged, which decode about as fast as any image of their size can.

Decoding alone is Pillow at its best: processes that have started and imported read, decode, convert, resize
where the size is another, and drop each image, and take new work as they finish. `prepare` also hashes,
compares, checks, splits, writes and syncs.

Its costs in part do not grow with the images (imports, the checks of Great Expectations), so a run on `FEW`
of them is measured too, and the images beyond have a ratio of their own. All take turns, after one round that
fills the caches of the disk, and the medians count. One row is of what a decoding process does with an image
all in all. Wall-clock times need quiet cores; processor times stand beside them. What only the disk takes is
shown by writing and syncing as many bytes. A second run with an unchanged folder shows the cache hit. Writes
`benchmarks/results/prepare.json` and `.md`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.pool import Pool
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from processor import processor

from graftgan.config import Data
from graftgan.contract import canonical_json, write_json, write_text
from graftgan.data.decoding import DecodeOptions
from graftgan.data.packing import pack_one
from graftgan.data.sources import RawImage
from graftgan.params import load

RESULTS = Path(__file__).resolve().parent / "results"
FORMATS: dict[str, dict[str, Any]] = {"jpeg": {"quality": 90}, "png": {}}
"""Name of a format, which is also the ending of its files -> how they are saved."""
SLOPE = 1.2
# As many as take the same path as more do.
FEW = 2000
CHUNK_IMAGES = 32
TEXTURES = 16
BLOCK_BYTES = 8 << 20
ALONE, SOME, WHOLE, AGAIN, INSIDE, DISK = (
    "decoding alone",
    "`prepare`, a few",
    "`prepare`",
    "`prepare`, folder unchanged",
    "a decoding process of `prepare`",
    "writing and syncing as many bytes",
)


@dataclass(frozen=True)
class Cost:
    """Wall-clock and processor seconds of some work on so many images."""

    images: int
    wall_s: float
    cpu_s: float

    def beyond(self, few: Cost) -> Cost:
        """Return what the images cost that were not among the few."""
        return Cost(self.images - few.images, self.wall_s - few.wall_s, self.cpu_s - few.cpu_s)

    def over(self, other: Cost) -> str:
        """Return how many times as much as another cost this is, by image."""
        share = self.images / other.images
        wall, cpu = self.wall_s / other.wall_s / share, self.cpu_s / other.cpu_s / share
        return f"{wall:.2f} x decoding alone by the clock, {cpu:.2f} x by processor time"


def soft(rng: np.random.Generator, side_px: int) -> Image.Image:
    """Return 8 x 8 random colours, smoothly enlarged."""
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return small.resize((side_px, side_px), Image.Resampling.BICUBIC)


def textures(rng: np.random.Generator, side_px: int) -> npt.NDArray[np.float32]:
    """Return noise with the spectrum of photographs and unit variance, [TEXTURES, 2 R, 2 R]."""
    side = 2 * side_px
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    white = rng.standard_normal((TEXTURES, side, side))
    pink = np.fft.irfft2(np.fft.rfft2(white) / frequency**SLOPE, (side, side))
    return np.asarray(pink / pink.std(axis=(1, 2), keepdims=True), dtype=np.float32)


def photo(rng: np.random.Generator, side_px: int, from_: npt.NDArray[np.float32]) -> Image.Image:
    """Return a picture of mostly grey contrast, as photographs have, from windows of three textures."""
    windows = []
    for texture in from_[rng.choice(len(from_), 3, replace=False)]:
        top, left = rng.integers(0, side_px, 2)
        windows.append(texture[top : top + side_px, left : left + side_px])
    grey = rng.standard_normal(3)
    mix = grey / np.linalg.norm(grey) + rng.normal(0, 0.3, (3, 3))
    pixels = 127.5 + 50 * np.stack(windows, axis=-1) @ mix.T
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw(folder: Path, images: int, side_px: int, pictures: str, format_: str) -> None:
    """Write the images."""
    rng = np.random.default_rng(0)
    from_ = textures(rng, side_px)
    folder.mkdir()
    for number in range(images):
        picture = soft(rng, side_px) if pictures == "soft" else photo(rng, side_px, from_)
        picture.save(folder / f"{number:06}.{format_}", **FORMATS[format_])


def decode(files: Sequence[Path], side_px: int) -> float:
    """Decode files to square RGB pixels, keep nothing, and return the processor seconds."""
    started_s = time.process_time()
    for file in files:
        with Image.open(file) as image:
            colours = image.convert("RGB")
            if colours.size != (side_px, side_px):
                colours = colours.resize((side_px, side_px), Image.Resampling.LANCZOS)
            np.asarray(colours)
    return time.process_time() - started_s


def decode_all(pool: Pool, files: list[Path], side_px: int) -> Cost:
    """Return what it takes the processes of a pool to decode all files."""
    chunks = [(files[at : at + CHUNK_IMAGES], side_px) for at in range(0, len(files), CHUNK_IMAGES)]
    started_s = time.perf_counter()
    cpu_s = sum(pool.starmap(decode, chunks, chunksize=1))
    return Cost(len(files), time.perf_counter() - started_s, cpu_s)


def inside(files: Sequence[Path], side_px: int) -> Cost:
    """Return what one process takes to decode, compare and hash images as `prepare` does."""
    options = DecodeOptions.of(Data(path="", resolution=side_px))
    raw = [RawImage(file.name, file.read_bytes()) for file in files]
    return timed(lambda: [pack_one(image, options).sha256 for image in raw], len(raw))


def timed(action: Callable[[], object], images: int) -> Cost:
    """Return what an action takes, ended child processes included."""
    before = os.times()
    action()
    after = os.times()
    return Cost(images, after.elapsed - before.elapsed, sum(after[:4]) - sum(before[:4]))


def prepare(work: Path, folder: Path, images: int, side_px: int, workers: int) -> tuple[Cost, Cost]:
    """Return what `graftgan prepare` takes, and a second time with nothing changed."""
    wanted = {
        "data.path": folder, "data.resolution": side_px, "data.train_images": "null",
        "data.split": "{validation: 0.1, test: 0.2}", "track.mode": "off", "runtime.workers": workers,
    }  # fmt: skip
    params = load(None, [f"{key}={value}" for key, value in wanted.items()])
    (work / "params.yaml").write_text(canonical_json(params.model_dump(mode="json")))
    command = [sys.executable, "-m", "graftgan", "prepare", "--params", str(work / "params.yaml")]
    command += ["--out", str(work / f"out-{folder.name}")]
    told: list[str] = []

    def call(*more: str) -> None:
        told.append(subprocess.run([*command, *more], check=True, stderr=PIPE, text=True).stderr)

    first, again = timed(lambda: call("--force"), images), timed(call, images)
    assert "prepare: done" in told[0] and "prepare: up to date" in told[1]
    return first, again


def write(path: Path, size_bytes: int) -> None:
    """Write so many bytes and wait until the disk has them."""
    block = bytes(BLOCK_BYTES)
    with path.open("wb") as file:
        for _ in range(0, size_bytes, BLOCK_BYTES):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    path.unlink()


def row(what: str, cost: Cost, more: str = "") -> dict[str, Any]:
    """Return one row of the table."""
    return {"what": what, **asdict(cost), "more": more}


def median(costs: Sequence[Cost]) -> Cost:
    """Return the medians of the times of one thing."""
    wall_s, cpu_s = (statistics.median(getattr(cost, name) for cost in costs) for name in ("wall_s", "cpu_s"))
    return Cost(costs[0].images, wall_s, cpu_s)


def measure(work: Path, format_: str, given: argparse.Namespace) -> tuple[float, dict[str, Cost]]:
    """Return the bytes of a file, and the cost of each thing, for one format."""
    count, side_px, workers = given.images, given.side_px, given.workers
    few = min(FEW, count // 2)
    for name, images in (("few", few), ("all", count)):
        draw(work / name, images, side_px, given.pictures, format_)
    files = sorted((work / "all").iterdir())
    costs: dict[str, list[Cost]] = {}
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for _ in range(given.rounds + 1):
            some, _ = prepare(work, work / "few", few, side_px, workers)
            whole, again = prepare(work, work / "all", count, side_px, workers)
            found = {
                ALONE: decode_all(pool, files, side_px), SOME: some, WHOLE: whole, AGAIN: again,
                INSIDE: inside(files[:few], side_px),
                DISK: timed(lambda: write(work / "bytes", count * side_px * side_px * 3), count),
            }  # fmt: skip
            for name, cost in found.items():
                costs.setdefault(name, []).append(cost)
    size_bytes = sum(file.stat().st_size for file in files) / count
    return size_bytes, {name: median(turns[1:]) for name, turns in costs.items()}


def rows_of(costs: dict[str, Cost]) -> list[dict[str, Any]]:
    """Return the rows of one format."""
    alone, some, whole, again, within, disk = (costs[n] for n in (ALONE, SOME, WHOLE, AGAIN, INSIDE, DISK))
    beyond = whole.beyond(some)
    share = alone.cpu_s / alone.images / (within.cpu_s / within.images)
    return [
        row(ALONE, alone),
        row(INSIDE, within, f"{share:.0%} of the processor time is that of decoding alone"),
        row(f"`prepare`, {some.images:,} images", some),
        row(f"`prepare`, {whole.images:,} images", whole, whole.over(alone)),
        row("`prepare`, the images beyond", beyond, beyond.over(alone)),
        row(DISK, disk),
        row(AGAIN, again, f"{again.wall_s / whole.wall_s:.1%} of the first run"),
    ]


def table(rows: list[dict[str, Any]], about: str) -> str:
    """Return the rows as Markdown."""
    lines = [
        about,
        "",
        "| what | time | images/s | processor, an image | |",
        "| --- | --: | --: | --: | --- |",
    ]
    for found in rows:
        rate, each_ms = found["images"] / found["wall_s"], 1000 * found["cpu_s"] / found["images"]
        cells = (found["what"], f"{found['wall_s']:.2f} s", f"{rate:.0f}", f"{each_ms:.2f} ms", found["more"])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def headline(about: str, costs: dict[str, Cost]) -> str:
    """Return what was packed, and what all of `prepare` takes beside decoding."""
    return f"{about}. From end to end `prepare` takes {costs[WHOLE].over(costs[ALONE])}:"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--side-px", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--pictures", choices=("photo", "soft"), default="photo")
    parser.add_argument("--quick", action="store_true", help="60 small images; prints only")
    given = parser.parse_args()
    if given.quick:
        given.images, given.side_px, given.rounds = 60, 64, 1
    rows, texts = {}, []
    for format_ in given.formats:
        with tempfile.TemporaryDirectory() as place:
            work = Path(place)
            os.environ |= {"GRAFTGAN_HOME": str(work / "home"), "GRAFTGAN_CACHE": str(work / "cache")}
            size_bytes, costs = measure(work, format_, given)
        rows[format_] = rows_of(costs)
        about = (
            f"{given.images:,} {format_.upper()} files ({given.pictures}) of {given.side_px} px, "
            f"{size_bytes / 1000:.1f} kB each; {given.workers} processes, {processor()}"
        )
        texts.append(table(rows[format_], headline(about, costs)))
    text = "\n".join(texts)
    if not given.quick:
        write_json(RESULTS / "prepare.json", rows)
        write_text(RESULTS / "prepare.md", text)
    print(text)


if __name__ == "__main__":
    main()
