"""How fast `prepare` packs a folder, beside the same images merely decoded, in one run.

    python benchmarks/prepare.py [--images 10000] [--side-px 256] [--workers 2] [--quick]

The images are JPEG files of random soft pictures. Decoding alone means that each file is read, decoded by
Pillow and dropped, in one process and in as many as `prepare` may use, which start before the time begins.
`prepare` has costs that do not grow with the images (imports, the checks of Great Expectations), so a run on
`FEW` of them is measured too, and the rate is that of the images beyond: this is what decoding can limit.
Wall-clock times need quiet cores; processor times stand beside them. A second run with an unchanged folder
shows the cache hit. Writes `benchmarks/results/prepare.json` and `.md`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
from PIL import Image

from graftgan.contract import canonical_json, write_json, write_text
from graftgan.params import load

RESULTS = Path(__file__).resolve().parent / "results"
QUALITY = 90
FEW = 1000
Seconds = tuple[float, float]
Row = dict[str, Any]


def draw(folder: Path, images: int, side_px: int) -> None:
    """Write pictures of 8 x 8 random colours, smoothly enlarged."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(images):
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        small.resize((side_px, side_px), Image.Resampling.BICUBIC).save(
            folder / f"{number:06}.jpg", quality=QUALITY
        )


def decode(files: Iterable[Path]) -> None:
    """Decode files and keep nothing."""
    for file in files:
        with Image.open(file) as image:
            np.asarray(image.convert("RGB"))


def timed(action: Callable[[], object]) -> Seconds:
    """Return wall-clock and processor seconds, those of ended child processes included."""
    before = os.times()
    action()
    after = os.times()
    return after.elapsed - before.elapsed, sum(after[:4]) - sum(before[:4])


def decode_in_parts(files: list[Path], workers: int) -> float:
    """Return the wall-clock seconds in which several processes decode the files."""
    parts = [files[start::workers] for start in range(workers)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pool.map(decode, [part[:1] for part in parts], chunksize=1)
        return timed(lambda: pool.map(decode, parts, chunksize=1))[0]


def prepare(work: Path, images: Path, side_px: int, workers: int) -> tuple[Seconds, Seconds]:
    """Return how long `graftgan prepare` takes, and a second time with nothing changed."""
    wanted = {
        "data.path": images, "data.resolution": side_px, "data.train_images": "null",
        "data.split": "{validation: 0.1, test: 0.2}", "track.mode": "off", "runtime.workers": workers,
    }  # fmt: skip
    params = load(None, [f"{key}={value}" for key, value in wanted.items()])
    (work / "params.yaml").write_text(canonical_json(params.model_dump(mode="json")))
    command = [sys.executable, "-m", "graftgan", "prepare", "--params", str(work / "params.yaml")]
    command += ["--out", str(work / f"out-{images.name}")]
    told: list[str] = []
    first, again = (
        timed(lambda: told.append(subprocess.run(command, check=True, stderr=PIPE, text=True).stderr))
        for _ in range(2)
    )
    assert "prepare: done" in told[0] and "prepare: up to date" in told[1]
    return first, again


def table(rows: list[Row], side_px: int) -> str:
    """Return the rows as Markdown."""
    lines = [
        f"JPEG files of {side_px} px.", "",
        "| what | time | images/s | |", "| --- | --: | --: | --- |",
    ]  # fmt: skip
    for row in rows:
        rate = row["images"] / row["seconds"]
        lines.append(f"| {row['what']} | {row['seconds']:.2f} s | {rate:.0f} | {row['more']} |")
    return "\n".join([*lines, ""])


def row(what: str, seconds: float, images: int, more: str = "") -> Row:
    """Return one row of the table."""
    return {"what": what, "seconds": seconds, "images": images, "more": more}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--side-px", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="60 small images; prints only")
    given = parser.parse_args()
    if given.quick:
        given.images, given.side_px = 60, 64
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        os.environ |= {"GRAFTGAN_HOME": str(work / "home"), "GRAFTGAN_CACHE": str(work / "cache")}
        draw(work / "few", min(FEW, given.images // 2), given.side_px)
        draw(work / "all", given.images, given.side_px)
        files = sorted((work / "all").iterdir())
        few = len(list((work / "few").iterdir()))
        (alone_s, alone_cpu_s), parted_s = timed(lambda: decode(files)), decode_in_parts(files, given.workers)
        (few_s, few_cpu_s), _ = prepare(work, work / "few", given.side_px, given.workers)
        (all_s, all_cpu_s), (again_s, _) = prepare(work, work / "all", given.side_px, given.workers)
    beyond, beyond_s, beyond_cpu_s = given.images - few, all_s - few_s, all_cpu_s - few_cpu_s
    alone_ms, beyond_ms = 1000 * alone_cpu_s / given.images, 1000 * beyond_cpu_s / beyond
    ratio = (beyond / beyond_s) / (given.images / alone_s)
    rows = [
        row("decoding alone", alone_s, given.images, f"{alone_ms:.2f} ms of processor an image"),
        row(f"decoding alone, {given.workers} processes", parted_s, given.images),
        row(f"`prepare`, {few:,} images", few_s, few),
        row(f"`prepare`, {given.images:,} images", all_s, given.images,
            f"{all_s / alone_s:.2f} x decoding alone"),
        row("`prepare`, the images beyond", beyond_s, beyond,
            f"{ratio:.2f} x the rate of decoding alone, {beyond_ms:.2f} ms of processor an image"),
        row("`prepare`, folder unchanged", again_s, given.images, f"{again_s / all_s:.1%} of the first run"),
    ]  # fmt: skip
    text = table(rows, given.side_px)
    if not given.quick:
        write_json(RESULTS / "prepare.json", rows)
        write_text(RESULTS / "prepare.md", text)
    print(text)


if __name__ == "__main__":
    main()
