"""Our metrics beside their peers on the same features: seconds, memory and how far the values differ.

    python benchmarks/metrics.py [--quick] [--rounds 3]

Ours and the peer take turns and medians are compared; times are of the whole process, on as many threads as
OMP_NUM_THREADS allows. Memory is what a process of its own takes above its features. Features are random,
2,048 wide, with a flat and with a falling spectrum.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mpmath
import numpy as np
import prdc
import scipy.linalg
import torch
from numpy.typing import NDArray

from graftgan.contract import write_json, write_text
from graftgan.metrics.frechet import frechet_distance, frechet_from_moments, moments
from graftgan.metrics.kid import kid
from graftgan.metrics.manifold import manifold_scores

RESULTS = Path(__file__).resolve().parent / "results"
DIM = 2048
Features = NDArray[np.float32]
Row = dict[str, float | str]


def draw(n: int, seed: int, fall: float = 0.0, shift: float = 0.0) -> Features:
    """Return features ``[n, DIM]`` whose standard deviations fall as ``i^-fall``."""
    scale = np.arange(1, DIM + 1, dtype=np.float64) ** -fall
    rng = np.random.default_rng(seed)
    return ((rng.normal(size=(n, DIM)) + shift) * scale).astype(np.float32)


def clumped(n: int, seed: int) -> Features:
    """Return features of low true dimension, as real ones have, so that balls overlap."""
    base = np.random.default_rng(9).normal(size=(64, DIM))
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, 64)) @ base + 0.5 * rng.normal(size=(n, DIM))).astype(np.float32)


def compare(work: str, peer: str, ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> Row:
    """Return medians of alternating runs and the relative difference of the values."""
    times: tuple[list[float], list[float]] = ([], [])
    values = [0.0, 0.0]
    for _ in range(rounds):
        for side, call in enumerate((ours, theirs)):
            started = time.perf_counter()
            values[side] = call()
            times[side].append(time.perf_counter() - started)
    ratios = [b / a for a, b in zip(*times, strict=True)]
    return {
        "work": work, "peer": peer, "ours_s": statistics.median(times[0]),
        "peer_s": statistics.median(times[1]), "ratio": statistics.median(ratios),
        "difference": abs(values[0] - values[1]) / max(abs(values[1]), 1e-300),
    }  # fmt: skip


def by_sqrtm(a: NDArray[np.float64], b: NDArray[np.float64], shift: float) -> float:
    """Fréchet distance of two covariances by the matrix square root of their product."""
    root = scipy.linalg.sqrtm(a @ b)
    return float(shift + np.trace(a) + np.trace(b) - 2 * np.trace(root.real))


def by_eigenvalues(a: NDArray[np.float64], b: NDArray[np.float64], shift: float) -> float:
    """Fréchet distance of two covariances by the eigenvalues of their product."""
    values = np.sqrt(np.maximum(scipy.linalg.eigvals(a @ b).real, 0)).sum()
    return float(shift + np.trace(a) + np.trace(b) - 2 * values)


def frechet_rows(n: int, rounds: int, fall: float) -> list[Row]:
    """Return the distance of n images to 5,000, from given moments and covariances."""
    few, many = draw(n, 0, fall), draw(5000, 1, fall, shift=0.1)
    ours = moments(few), moments(many)
    covariances = np.cov(few.T.astype(np.float64)), np.cov(many.T.astype(np.float64))
    shift = float(np.sum((ours[0].mean - ours[1].mean) ** 2))
    spectrum = "falling" if fall else "flat"
    peers = {"scipy sqrtm": by_sqrtm, "eigenvalues of the product": by_eigenvalues}
    return [
        compare(f"Fréchet distance, n = {n:,}, {spectrum} spectrum", name,
                lambda: frechet_from_moments(*ours), lambda peer=peer: peer(*covariances, shift), rounds)
        for name, peer in peers.items()
    ]  # fmt: skip


def in_full(x: NDArray[np.float64]) -> tuple[mpmath.matrix, mpmath.matrix]:
    """Return the mean (a row) and the centred rows over ``sqrt(n - 1)``, in many digits."""
    rows = mpmath.matrix(x.tolist())
    mean = mpmath.ones(1, len(x)) * rows / len(x)
    return mean, (rows - mpmath.ones(len(x), 1) * mean) / mpmath.sqrt(len(x) - 1)


def frechet_error(n: int = 12, dim: int = 48) -> Row:
    """Return our relative error against 60 digits, where there are fewer images than dimensions."""
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=(n, dim)), rng.normal(size=(60, dim)) + 0.1
    mpmath.mp.dps = 60
    (mean, a), (other_mean, b) = in_full(few), in_full(many)
    across = a * b.T
    squares = mpmath.eigsy(across * across.T, eigvals_only=True)
    overlap = mpmath.fsum(mpmath.sqrt(max(value, 0)) for value in squares)
    spread = mpmath.fsum(v * v for v in a) + mpmath.fsum(v * v for v in b)
    exact = mpmath.fsum(v * v for v in mean - other_mean) + spread - 2 * overlap
    error = abs(mpmath.mpf(frechet_distance(few, many)) - exact) / exact
    return {
        "work": f"Fréchet distance, n = {n}, {dim} dimensions",
        "peer": "60 digits",
        "difference": float(error),
    }


def manifold_rows(n: int, rounds: int) -> list[Row]:
    """Return precision, recall, density and coverage of n against n, with memory; and memory of more."""
    fake, real = clumped(n, 0), clumped(n, 1)
    found: dict[str, list[float]] = {}

    def ours() -> float:
        scores = vars(manifold_scores(fake, real, k_precision_recall=5, k_density_coverage=5))
        found["ours"] = [estimate.value for estimate in scores.values()]
        return sum(found["ours"])

    def peer() -> float:
        scores = prdc.compute_prdc(real, fake, nearest_k=5)
        found["peer"] = [scores[name] for name in ("precision", "recall", "density", "coverage")]
        return sum(found["peer"])

    row = compare(f"precision, recall, density, coverage, {n:,} against {n:,}", "prdc", ours, peer, rounds)
    row["difference"] = max(abs(a - b) for a, b in zip(found["ours"], found["peer"], strict=True))
    row["ours_mib"], row["peer_mib"] = (extra_mib(side, n) for side in ("ours", "peer"))
    return [row]


def extra_mib(side: str, n: int) -> float:
    """Return the memory that a process of its own takes above its features, in MiB."""
    command = [sys.executable, __file__, "--measure", side, "--images", str(n)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure(side: str, n: int) -> None:
    """Print how far the peak of memory rises while the four scores are taken."""
    fake, real = clumped(n, 0), clumped(n, 1)
    (manifold_scores(fake[:64], real[:64]), prdc.compute_prdc(real[:64], fake[:64], nearest_k=5))
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")
    if side == "ours":
        manifold_scores(fake, real)
    else:
        prdc.compute_prdc(real, fake, nearest_k=5)
    status = Path("/proc/self/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
    print((peak - held) / 2**20)


def kid_by_subsets(fake: Features, real: Features, subsets: int, size: int) -> float:
    """KID as the mean over random subsets, in float32, as it is commonly computed."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(subsets):
        x, y = (part[rng.choice(len(part), size, replace=False)] for part in (fake, real))
        xx, yy, xy = ((a @ b.T / DIM + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (size * (size - 1))
        found.append(within - 2 * xy.mean())
    return float(np.mean(found))


def kid_rows(n: int, subsets: int, size: int, rounds: int) -> list[Row]:
    """Return KID of n against n beside random subsets, and beside itself in float64."""
    fake, real = np.abs(draw(n, 0)), np.abs(draw(n, 1, shift=0.2))
    wide = fake.astype(np.float64), real.astype(np.float64)
    title = f"KID, {n:,} against {n:,}"
    return [
        compare(title, f"{subsets} subsets of {size:,} in float32", lambda: kid(fake, real).value,
                lambda: kid_by_subsets(fake, real, subsets, size), rounds),
        compare(title, "the same in float64", lambda: kid(fake, real).value,
                lambda: kid(*wide).value, rounds),
    ]  # fmt: skip


def table(rows: list[Row]) -> str:
    """Return a Markdown table."""
    lines = [
        f"torch {torch.__version__}, {torch.get_num_threads()} threads. Ratio: peer over ours.", "",
        "| work | peer | ours | peer | ratio | difference | memory, ours / peer |",
        "| --- | --- | --: | --: | --: | --: | --: |",
    ]  # fmt: skip
    for row in rows:
        times = (
            f"{row['ours_s']:.3f} s | {row['peer_s']:.3f} s | {row['ratio']:.1f}"
            if "ours_s" in row
            else "| |"
        )
        memory = f"{row['ours_mib']:.0f} / {row['peer_mib']:.0f} MiB" if "peer_mib" in row else ""
        memory = f"{row['ours_mib']:.0f} MiB" if "ours_mib" in row and not memory else memory
        lines.append(f"| {row['work']} | {row['peer']} | {times} | {row['difference']:.1e} | {memory} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tenth of the images; prints only")
    parser.add_argument("--measure", choices=["ours", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure(options.measure, options.images)
    part = 10 if options.quick else 1
    rows = [
        frechet_error(),
        *frechet_rows(100, options.rounds, fall=0.0), *frechet_rows(100, options.rounds, fall=1.0),
        *frechet_rows(5000, options.rounds, fall=0.0), *frechet_rows(5000, options.rounds, fall=1.0),
        *manifold_rows(10_000 // part, options.rounds),
        *kid_rows(5000 // part, 100, 1000 // part, options.rounds),
    ]  # fmt: skip
    if not options.quick:
        n = 50_000
        memory: Row = {"work": f"the four scores, {n:,} against {n:,}", "peer": "", "difference": 0.0}
        rows.append(memory | {"ours_mib": extra_mib("ours", n)})
        write_json(RESULTS / "metrics.json", rows)
        write_text(RESULTS / "metrics.md", table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
