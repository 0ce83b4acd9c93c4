"""How time grows with the work: resolution, batch, sources, targets, images, dimensions and n.

    python benchmarks/growth.py [--quick] [--threads 1]

Each curve has the time and the work of a few sizes. The work of training is its arithmetic and its traffic to
and from memory, both counted, in seconds at the machine's limits; of metrics it is what the definition asks
for, and else the number of things. Exponents are of the last three sizes in log-log. A time that grew faster
than its work would stand out by `EXCESS`. Times are of the processor, in one process, so that other programs
hardly show in them. Writes `results/growth.json` and `.md`, and plots to `docs/growth.svg`.

The last part takes `rank` apart: what one more source costs, one more target, and one more pair of both.
From these costs it plans 50 sources by 10 targets, and compares such a plan with the time of a small grid.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import growth_plot
import numpy as np
import torch
import yaml
from measuring import Flops, copy_bandwidth, gemm_peak
from PIL import Image
from processor import processor
from step_peers import Setting
from step_variants import Ours

from graftgan.checkpoints.store import WEIGHTS, save_gan
from graftgan.context import Context
from graftgan.contract import digest_file, write_json, write_text
from graftgan.data.duplicates import close_hashes
from graftgan.data.packing import PHASH_SIZE
from graftgan.engine import Job, default_paths, run_job
from graftgan.gans.base import build
from graftgan.gans.stylegan2 import StyleGAN2Spec
from graftgan.metrics.features import make_extractor
from graftgan.metrics.frechet import frechet_distance
from graftgan.metrics.kid import kid
from graftgan.metrics.manifold import manifold_scores
from graftgan.params import load
from graftgan.progress import NullProgress
from graftgan.stages.specs import stage

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PLOT = ROOT / "docs" / "growth.svg"
EXCESS = 0.25
GEMM_SIDE = 2048
FITTED = 3
WANTED_SOURCES, WANTED_TARGETS = 50, 10
log = logging.getLogger("growth")


@dataclass(frozen=True)
class Curve:
    """Times over sizes.

    Attributes:
        name: What was timed.
        of: What the size is.
        sizes: Sizes.
        seconds: Median time at each.
        work: Work at each, in any unit.
    """

    name: str
    of: str
    sizes: tuple[float, ...]
    seconds: tuple[float, ...]
    work: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """Exponent of the time."""
        return exponent(self.sizes, self.seconds)

    @property
    def work_exponent(self) -> float:
        """Exponent of the work."""
        return exponent(self.sizes, self.work)

    @property
    def grows_faster(self) -> bool:
        """Whether the time grows clearly faster than the work."""
        return self.exponent > self.work_exponent + EXCESS


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of the last few points in log-log, by least squares."""
    x, y = np.log(sizes[-FITTED:]), np.log(values[-FITTED:])
    return float(np.polyfit(x, y, 1)[0])


def median_s(action: Callable[[], object], runs: int = 3) -> float:
    """Return the median processor time of a call, after one that is not counted."""
    action()
    times = []
    for _ in range(runs):
        started = time.process_time()
        action()
        times.append(time.process_time() - started)
    return statistics.median(times)


def measured(
    name: str,
    of: str,
    sizes: Sequence[int],
    make: Callable[[int], tuple[Callable[[], object], float]],
    runs: int = 3,
) -> Curve:
    """Return the curve of what `make` gives for each size: a call and its work."""
    seconds, work = [], []
    for size in sizes:
        action, amount = make(size)
        seconds.append(median_s(action, runs))
        work.append(amount)
        log.info("%s, %s %d: %.4f s", name, of, size, seconds[-1])
    return Curve(name, of, tuple(map(float, sizes)), tuple(seconds), tuple(work))


def step_of(side_px: int, batch: int) -> tuple[Callable[[], object], float]:
    """Return a training step in float32 without R1, and the seconds that the machine's limits ask for it."""
    ours = Ours(
        Setting("growth", 1024, 32, batch=batch, r1_interval=0, latent=64, resolution=side_px), "fp32"
    )
    with Flops() as counter:
        ours.step()
    arithmetic, traffic = limits()
    return ours.step, counter.total / arithmetic + counter.moved_bytes / traffic


@cache
def limits() -> tuple[float, float]:
    """Return the arithmetic in float32, and the bytes to and from memory, that a second allows at most."""
    return gemm_peak("fp32", GEMM_SIDE), copy_bandwidth()


def training_curves(quick: bool) -> list[Curve]:
    """Return the step against resolution and batch."""
    sides, batches = ((32, 64), (2, 4)) if quick else ((32, 64, 128, 256), (4, 8, 16, 32, 64))
    return [
        measured("training step, batch 4", "side, px", sides, lambda side: step_of(side, 4)),
        measured("training step, 32 px", "batch", batches, lambda batch: step_of(32, batch)),
    ]


def features(n: int, dim: int, seed: int) -> Any:
    """Return features [n, dim] around a plane of 32 dimensions."""
    base = np.random.default_rng(9).normal(size=(32, dim))
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, 32)) @ base + 0.5 * rng.normal(size=(n, dim))).astype(np.float32)


def metric_curves(quick: bool) -> list[Curve]:
    """Return the metrics against n at 512 dimensions, and against dimensions at n = 1,000."""
    counts, fixed_dim = ((100, 200), 64) if quick else ((500, 1000, 2000, 4000), 512)
    dims, fixed_n = ((32, 64), 100) if quick else ((256, 512, 1024, 2048), 1000)
    scores: dict[str, tuple[Callable[..., object], Callable[[float, float], float]]] = {
        "Fréchet distance": (frechet_distance, frechet_work),
        "KID": (kid, lambda n, d: 3 * n * n * d),
        "precision, recall, density, coverage": (manifold_scores, lambda n, d: 2 * n * n * d),
    }
    curves = []
    for name, (call, work) in scores.items():

        def at(n: int, dim: int, call: Any = call, work: Any = work) -> tuple[Callable[[], object], float]:
            fake, real = features(n, dim, 0), features(n, dim, 1)
            return (lambda: call(fake, real)), work(n, dim)

        title = f"{name}, {fixed_dim} dimensions"
        curves.append(measured(title, "n", counts, lambda n, at=at: at(n, fixed_dim)))
        curves.append(
            measured(f"{name}, n = {fixed_n:,}", "dimensions", dims, lambda d, at=at: at(fixed_n, d))
        )
    return curves


def frechet_work(n: float, d: float) -> float:
    """Return the arithmetic of two covariances and of eigenvalues on the shorter side."""
    least = min(n, d)
    return 2 * n * d * least + 9 * least**3


class Desk:
    """A folder with image sets, sources and a cache, in which stages run."""

    def __init__(self, root: Path, samples: int, target_images: int) -> None:
        self.root, self.samples, self.target_images = root, samples, target_images
        self.sources: list[dict[str, Any]] = []
        self.caches = 0

    def add_sources(self, count: int) -> None:
        """Make networks of the zoo's size until there are `count`."""
        for seed in range(len(self.sources), count):
            folder = self.root / f"source{seed}"
            folder.mkdir()
            spec = StyleGAN2Spec(
                resolution=32, z_dim=128, w_dim=128, mapping_layers=2, channel_base=1024, channel_max=64
            )
            save_gan(build(spec, seed), folder)
            facts = {"name": folder.name, "path": folder.name, "sha256": digest_file(folder / WEIGHTS)}
            self.sources.append(facts | {"licence": "CC0-1.0", "resolution": 32, "title": folder.name})
        write_text(self.root / "catalogue.yaml", yaml.safe_dump(self.sources))

    def images(self, count: int, seed: int) -> Path:
        """Return a folder of PNG pictures."""
        folder = self.root / f"images{seed}-{count}"
        folder.mkdir()
        rng = np.random.default_rng(seed)
        for number in range(count):
            small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            small.resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
        return folder

    def fresh_cache(self) -> Path:
        """Return a cache folder that nobody has used."""
        self.caches += 1
        return self.root / f"cache{self.caches}"

    def run(self, name: str, out: str, cache: Path, force: bool = True, **changes: Any) -> float:
        """Run a stage, unless nothing changed and it is not forced, and return the processor time."""
        settings = {
            "rank.catalogue": self.root / "catalogue.yaml", "rank.samples": self.samples,
            "rank.extractor": "efflite0-128", "runtime.device": "cpu", "runtime.workers": 1,
            "runtime.threads": torch.get_num_threads(), "track.mode": "off", "data.resolution": 32,
            "data.split": "{validation: 0.1, test: 0.2}",
        } | {key.replace("__", "."): value for key, value in changes.items()}  # fmt: skip
        params = load(None, [f"{key}={value}" for key, value in settings.items()])
        job = Job(stage(name), params, *default_paths(stage(name), self.root / out))
        quiet = logging.getLogger("quiet")
        started = time.process_time()
        run_job(job, lambda state: Context(state, cache, quiet, NullProgress()), force=force)
        return time.process_time() - started

    def rank(self, target: int, sources: int, cache: Path) -> float:
        """Rank the first few sources for a target and return the seconds."""
        out = f"target{target}"
        if not (self.root / out).exists():
            images = self.images(self.target_images, 1000 + target)
            self.run("prepare", out, self.fresh_cache(), data__path=images)
        names = [source["name"] for source in self.sources[:sources]]
        return self.run("rank", out, cache, rank__sources=str(names).replace("'", ""))


def prepare_curve(desk: Desk, quick: bool) -> Curve:
    """Return `prepare` against the images of a folder."""
    counts = (50, 100) if quick else (500, 1000, 2000, 4000)

    def make(count: int) -> tuple[Callable[[], object], float]:
        folder = desk.images(count, 0)
        return (lambda: desk.run("prepare", "prepared", desk.fresh_cache(), data__path=folder)), float(count)

    return measured("prepare, PNG of 32 px", "images", counts, make, runs=1)


def unchanged_curve(desk: Desk, quick: bool) -> Curve:
    """Return `prepare` of a folder that did not change against its files."""
    counts = (50, 100) if quick else (2000, 4000, 8000, 16_000)

    def make(count: int) -> tuple[Callable[[], object], float]:
        folder, cache, out = desk.images(count, 1), desk.fresh_cache(), f"unchanged{count}"
        desk.run("prepare", out, cache, data__path=folder)
        return (lambda: desk.run("prepare", out, cache, force=False, data__path=folder)), float(count)

    return measured("prepare, folder unchanged", "files", counts, make)


def duplicates_curve(quick: bool) -> Curve:
    """Return what `prepare` takes to look for near duplicates, among all pairs of images."""
    counts = (500, 1000) if quick else (5000, 10_000, 20_000, 40_000)

    def make(count: int) -> tuple[Callable[[], object], float]:
        hashes = np.random.default_rng(0).random((count, PHASH_SIZE**2)) < 0.5
        return (lambda: close_hashes(hashes, load(None, []).data.near_duplicate_bits)), float(count) ** 2

    return measured("near duplicates in prepare", "images", counts, make)


def features_curve(quick: bool) -> Curve:
    """Return features, which `rank` and `evaluate` take once of every image."""
    extractor = make_extractor("efflite0-128")
    counts = (16, 32) if quick else (250, 500, 1000, 2000)

    def make(count: int) -> tuple[Callable[[], object], float]:
        images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        return (lambda: extractor(images)), float(count)

    return measured("features, efflite0-128", "images", counts, make)


@dataclass(frozen=True)
class Plan:
    """What `rank` costs by its parts, in seconds.

    Attributes:
        source_s: One more source: its samples and their features, once for all targets.
        target_s: One more target, apart from sources: its features, the choice, the pictures.
        pair_s: Reading one source and comparing it with one target.
        grid: Sources and targets of the grid that was measured.
        grid_s: Its time.
    """

    source_s: float
    target_s: float
    pair_s: float
    grid: tuple[int, int]
    grid_s: float

    def predicted_s(self, sources: int, targets: int) -> float:
        """Return the time of all targets against all sources; a network with random weights is one more."""
        candidates = sources + 1
        return candidates * self.source_s + targets * (self.target_s + candidates * self.pair_s)


def rank_plan(desk: Desk, quick: bool) -> tuple[Curve, Plan]:
    """Time `rank` against sources, cold and with features of an earlier target, and a grid of both."""
    counts = (1, 2) if quick else (1, 2, 4, 8)
    desk.add_sources(counts[-1])
    cold, warm = [], []
    desk.rank(0, 1, desk.fresh_cache())
    for count in counts:
        cache = desk.fresh_cache()
        cold.append(desk.rank(0, count, cache))
        warm.append(desk.rank(1, count, cache))
        log.info("rank, %d sources: %.2f s, %.2f s for a second target", count, cold[-1], warm[-1])
    candidates = [count + 1.0 for count in counts]
    pair_s, target_s = (float(v) for v in np.polyfit(candidates, warm, 1))
    both_s = float(np.polyfit(candidates, cold, 1)[0])
    grid, cache = ((1, 2) if quick else (4, 3)), desk.fresh_cache()
    grid_s = sum(desk.rank(10 + target, grid[0], cache) for target in range(grid[1]))
    curve = Curve("rank", "sources and scratch", tuple(candidates), tuple(cold), tuple(candidates))
    return curve, Plan(both_s - pair_s, target_s, pair_s, grid, grid_s)


def page(curves: Sequence[Curve], plan: Plan, options: argparse.Namespace, samples: int) -> str:
    """Return tables of exponents and of the plan."""
    lines = [
        f"{processor()}, torch {torch.__version__}, {options.threads} threads, processor time; exponents of "
        f"the last {FITTED} sizes.",
        "", f"![Time, and dashed the work, against sizes]({PLOT.name})",
        "",
        "| what | against | sizes | time | exponent | of the work |", "| --- | --- | --- | --- | --: | --: |",
    ]  # fmt: skip
    for c in curves:
        ends = f"{c.sizes[0]:g} to {c.sizes[-1]:g} | {c.seconds[0]:.3g} to {c.seconds[-1]:.3g} s"
        mark = " (faster than the work)" if c.grows_faster else ""
        lines.append(f"| {c.name} | {c.of} | {ends} | {c.exponent:.2f}{mark} | {c.work_exponent:.2f} |")
    sources, targets = plan.grid
    whole = plan.predicted_s(WANTED_SOURCES, WANTED_TARGETS)
    lines += [
        "", f"`rank` with {samples:,} samples a source, one process:", "",
        "| part | time |", "| --- | --: |",
        f"| one more source: samples and features, once for all targets | {plan.source_s:.2f} s |",
        f"| one more target: features, choice, pictures | {plan.target_s:.2f} s |",
        f"| one pair of them: all scores, and reading the source | {plan.pair_s:.3f} s |",
        f"| {sources} sources by {targets} targets, planned from these | "
        f"{plan.predicted_s(sources, targets):.1f} s |",
        f"| the same, measured | {plan.grid_s:.1f} s |",
        f"| {WANTED_SOURCES} sources by {WANTED_TARGETS} targets, planned | {whole / 60:.1f} min |", "",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="tiny sizes; prints only")
    options = parser.parse_args()
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)
    torch.set_num_threads(options.threads)
    samples = 32 if options.quick else 1000
    with tempfile.TemporaryDirectory() as place:
        desk = Desk(Path(place), samples, 60 if options.quick else 150)
        curves = [*training_curves(options.quick), *metric_curves(options.quick)]
        curves += [features_curve(options.quick), prepare_curve(desk, options.quick)]
        curves += [unchanged_curve(desk, options.quick), duplicates_curve(options.quick)]
        of_rank, plan = rank_plan(desk, options.quick)
    curves.append(of_rank)
    if not options.quick:
        told = [asdict(c) | {"exponent": c.exponent, "work_exponent": c.work_exponent} for c in curves]
        write_json(RESULTS / "growth.json", {"curves": told, "rank": asdict(plan), "samples": samples})
        write_text(RESULTS / "growth.md", page(curves, plan, options, samples))
        write_text(PLOT, growth_plot.svg(curves))
    print(page(curves, plan, options, samples))


if __name__ == "__main__":
    main()
