"""How fast `prepare` packs a folder, beside the same images merely decoded, in one run.

    python benchmarks/prepare.py [--images 10000] [--side-px 256]

The images are JPEG files of random soft pictures. A second run with an unchanged folder shows the cache hit.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from graftgan.context import StopSignal
from graftgan.engine import Job, default_paths
from graftgan.params import load
from graftgan.runner import run_stage
from graftgan.stages.specs import stage

QUALITY = 90


def draw(folder: Path, images: int, side_px: int) -> None:
    """Write pictures of 8 x 8 random colours, smoothly enlarged."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(images):
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        small.resize((side_px, side_px), Image.Resampling.BICUBIC).save(
            folder / f"{number:06}.jpg", quality=QUALITY
        )


def decode(folder: Path) -> None:
    """Decode every file and keep nothing."""
    for file in sorted(folder.iterdir()):
        with Image.open(file) as image:
            np.asarray(image.convert("RGB"))


def seconds(work: Path, job: Job) -> tuple[float, bool]:
    """Return how long `prepare` takes, and whether it did any work."""
    started = time.perf_counter()
    _, ran = run_stage(job, StopSignal())
    return time.perf_counter() - started, ran


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--side-px", type=int, default=256)
    arguments = parser.parse_args()
    logging.getLogger("graftgan").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        draw(work / "images", arguments.images, arguments.side_px)
        started = time.perf_counter()
        decode(work / "images")
        peer_s = time.perf_counter() - started
        wanted = {
            "data.path": work / "images", "data.resolution": arguments.side_px, "data.train_images": "null",
            "data.split": "{validation: 0.1, test: 0.2}", "track.mode": "off",
        }  # fmt: skip
        params = load(None, [f"{key}={value}" for key, value in wanted.items()])
        job = Job(stage("prepare"), params, *default_paths(stage("prepare"), work / "out"))
        first_s, ran = seconds(work, job)
        again_s, ran_again = seconds(work, job)
    assert ran and not ran_again
    rate = arguments.images / first_s
    print(f"decoding alone            {peer_s:8.2f} s  {arguments.images / peer_s:8.0f} images/s")
    print(
        f"prepare                   {first_s:8.2f} s  {rate:8.0f} images/s  {first_s / peer_s:.2f} x decoding"
    )
    print(f"prepare, folder unchanged {again_s:8.2f} s  {again_s / first_s:.1%} of the first run")


if __name__ == "__main__":
    main()
