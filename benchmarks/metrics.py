"""Our metrics beside their peers on the same features: seconds, memory and how far the values differ.

    OMP_NUM_THREADS=2 python benchmarks/metrics.py [--quick] [--rounds 3]

After one round that is not counted ours and the peer take turns, to and fro, and the medians of the ratios of
a turn count, and of a turn of half a second the mean; times are of the whole process, on as many threads as
OMP_NUM_THREADS allows. Both sides start from features: covariances are the peer's to make, their factors
ours. Where the statistics of the second set are said to be kept, each side has made its own before; where
covariances are given, ours has their factors to make. Features are random, 2,048 wide, with a flat and with a
falling spectrum.

Shares are of the arithmetic that the method needs at least (symmetric products by half), over the time and
over what a large matrix product of the same precision does on this machine at the time. Memory is what a
process of its own takes above its features. Errors of the Fréchet distance are against exact integer products
and eigenvalues in 60 digits.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import mpmath
import numpy as np
import prdc
import scipy.linalg
import torch
from measuring import copy_bandwidth, extra_mib, gemm_peak, median_ratio, turns
from numpy.typing import NDArray
from processor import processor

from graftgan.contract import write_json, write_text
from graftgan.metrics.frechet import Moments, covariance_root, frechet_distance, frechet_from_moments, moments
from graftgan.metrics.kid import kid
from graftgan.metrics.manifold import manifold_scores

TURN_S = 0.5
RESULTS = Path(__file__).resolve().parent / "results"
DIM = 2048
K = 5
SUBSETS = 100
SIDES = ("ours", "peer")
Features = NDArray[np.float32]
Call = Callable[[], float]
Row = dict[str, float | str]


@dataclass(frozen=True)
class Sizes:
    """How much is compared.

    Attributes:
        dim: Features an image.
        few: Images of a small target set.
        many: Images of a large set, for Fréchet distance and KID.
        near: Images of both sets whose neighbours are searched.
        subset: Images of a subset of KID.
    """

    dim: int = DIM
    few: int = 100
    many: int = 5000
    near: int = 10_000
    subset: int = 1000


QUICK = Sizes(dim=128, few=40, many=400, near=400, subset=60)
TINY = Sizes(dim=16, few=10, many=64, near=64, subset=16)


@dataclass(frozen=True)
class Work:
    """Something that ours and a peer do.

    Attributes:
        title: What, for the table.
        peer: How the peer does it.
        make: Draws features and returns our call and the peer's.
        flops: Arithmetic that it needs at least.
        precision: What it is done in, `fp32` or `fp64`.
        tell: Says in words how far two values are apart; the relative difference without it.
    """

    title: str
    peer: str
    make: Callable[[], tuple[Call, Call]]
    flops: float
    precision: str
    tell: Callable[[float, float], str] | None = None


def draw(n: int, seed: int, dim: int, fall: float = 0.0, shift: float = 0.0) -> Features:
    """Return features ``[n, dim]`` whose standard deviations fall as ``i^-fall``."""
    scale = np.arange(1, dim + 1, dtype=np.float64) ** -fall
    rng = np.random.default_rng(seed)
    return ((rng.normal(size=(n, dim)) + shift) * scale).astype(np.float32)


def clumped(n: int, seed: int, dim: int) -> Features:
    """Return features of low true dimension, as real ones have, so that balls overlap."""
    base = np.random.default_rng(9).normal(size=(64, dim))
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, 64)) @ base + 0.5 * rng.normal(size=(n, dim))).astype(np.float32)


def by_sqrtm(a: NDArray[np.float64], b: NDArray[np.float64], shift: float) -> float:
    """Fréchet distance of two covariances by the matrix square root of their product."""
    root = scipy.linalg.sqrtm(a @ b)
    return float(shift + np.trace(a) + np.trace(b) - 2 * np.trace(root.real))


def by_eigenvalues(a: NDArray[np.float64], b: NDArray[np.float64], shift: float) -> float:
    """Fréchet distance of two covariances by the eigenvalues of their product."""
    values = np.sqrt(np.maximum(scipy.linalg.eigvals(a @ b).real, 0)).sum()
    return float(shift + np.trace(a) + np.trace(b) - 2 * values)


def mean_and_covariance(x: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what the peers know of a set."""
    wide = x.astype(np.float64)
    return wide.mean(axis=0), np.cov(wide.T)


FRECHET = {"scipy sqrtm": by_sqrtm, "eigenvalues of the product": by_eigenvalues}


def frechet_flops(n: int, m: int, dim: int, kept: bool) -> float:
    """Return the arithmetic of the distance of n images to m, by the shorter side of each.

    Gram matrices, Cholesky factors and eigenvalues alone cost ``n d^2``, ``d^3 / 3`` and ``4 d^3 / 3`` (Golub
    and Van Loan 2013, sections 4.2 and 8.3).
    """
    roots = [min(size - 1, dim) for size in (n, m)]
    made = [(n, roots[0])] if kept else [(n, roots[0]), (m, roots[1])]
    factors = sum(size * dim**2 + dim**3 / 3 for size, root in made if root == dim)
    least, most = sorted(roots)
    return factors + 2 * least * most * dim + least**2 * most + 4 * least**3 / 3


def frechet(sizes: Sizes, n: int, fall: float, peer: str, kept: bool = False) -> Work:
    """Return the distance of n images to many, whose statistics are kept or not."""
    m, dim = sizes.many, sizes.dim

    def make() -> tuple[Call, Call]:
        few, many = draw(n, 0, dim, fall), draw(m, 1, dim, fall, shift=0.1)
        of_many = (moments(many), mean_and_covariance(many)) if kept else None

        def ours() -> float:
            return frechet_from_moments(moments(few), of_many[0] if of_many else moments(many))

        def theirs() -> float:
            mean, covariance = mean_and_covariance(few)
            other_mean, other = of_many[1] if of_many else mean_and_covariance(many)
            return FRECHET[peer](covariance, other, float(np.sum((mean - other_mean) ** 2)))

        return ours, theirs

    title = f"Fréchet distance, {n:,} against {m:,}, {'falling' if fall else 'flat'} spectrum"
    title += ", statistics of the latter kept" if kept else ""
    return Work(title, peer, make, frechet_flops(n, m, dim, kept), "fp64")


def of_covariance(mean: NDArray[np.float64], covariance: NDArray[np.float64], n: int) -> Moments:
    """Return what ours needs to know, of what the peers do."""
    root = covariance_root(covariance)
    assert root is not None, "drawn features are not flat"
    return Moments(mean, root, float(np.trace(covariance)), n)


def frechet_of_covariances(sizes: Sizes, fall: float, peer: str) -> Work:
    """Return the distance of many images to many, all of whose covariances are known on both sides."""
    n, dim = sizes.many, sizes.dim

    def make() -> tuple[Call, Call]:
        given = [mean_and_covariance(draw(n, seed, dim, fall, shift=0.1 * seed)) for seed in (0, 1)]
        (mean, covariance), (other_mean, other) = given

        def ours() -> float:
            return frechet_from_moments(*(of_covariance(*known, n) for known in given))

        def theirs() -> float:
            return FRECHET[peer](covariance, other, float(np.sum((mean - other_mean) ** 2)))

        return ours, theirs

    title = f"Fréchet distance, covariances of {n:,} each, {'falling' if fall else 'flat'} spectrum"
    flops = dim**3 * (2 * 1 / 3 + 2 + 1 + 4 / 3)  # two factors, their product, its squares, their eigenvalues
    return Work(title, peer, make, flops, "fp64")


def pairs_flops(n: int, m: int, dim: int) -> float:
    """Return the arithmetic of products of all rows of two sets, with each other and within each."""
    return float(dim) * (n + m) ** 2


def manifold(sizes: Sizes) -> Work:
    """Return precision, recall, density and coverage of n against n; the worst difference counts."""
    n, dim = sizes.near, sizes.dim
    found: dict[str, list[float]] = {}

    def make() -> tuple[Call, Call]:
        fake, real = clumped(n, 0, dim), clumped(n, 1, dim)

        def ours() -> float:
            scores = vars(manifold_scores(fake, real, k_precision_recall=K, k_density_coverage=K))
            found["ours"] = [estimate.value for estimate in scores.values()]
            return sum(found["ours"])

        def peer() -> float:
            scores = prdc.compute_prdc(real, fake, nearest_k=K)
            found["peer"] = [scores[name] for name in ("precision", "recall", "density", "coverage")]
            return sum(found["peer"])

        return ours, peer

    def tell(_: float, __: float) -> str:
        return f"{max(abs(a - b) for a, b in zip(found['ours'], found['peer'], strict=True)):.1e} absolute"

    title = f"precision, recall, density, coverage, {n:,} against {n:,}, k = {K}"
    return Work(title, "prdc", make, pairs_flops(n, n, dim), "fp32", tell)


def kid_by_subsets(fake: Features, real: Features, subsets: int, size: int) -> float:
    """KID as the mean over random subsets, in float32, as it is commonly computed."""
    rng, dim = np.random.default_rng(0), fake.shape[1]
    found = []
    for _ in range(subsets):
        x, y = (part[rng.choice(len(part), size, replace=False)] for part in (fake, real))
        xx, yy, xy = ((a @ b.T / dim + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (size * (size - 1))
        found.append(within - 2 * xy.mean())
    return float(np.mean(found))


def kid_works(sizes: Sizes) -> list[Work]:
    """Return KID of n against n beside random subsets, and beside itself in float64."""
    n, dim = sizes.many, sizes.dim
    stderr: list[float] = []

    def make(wide: bool) -> tuple[Call, Call]:
        fake, real = np.abs(draw(n, 0, dim)), np.abs(draw(n, 1, dim, shift=0.2))
        doubled = (fake.astype(np.float64), real.astype(np.float64)) if wide else None

        def ours() -> float:
            estimate = kid(fake, real)
            stderr[:] = [estimate.stderr]
            return estimate.value

        def theirs() -> float:
            return kid(*doubled).value if doubled else kid_by_subsets(fake, real, SUBSETS, sizes.subset)

        return ours, theirs

    def apart(a: float, b: float) -> str:
        # Subsets estimate the same from part of the pairs: that they differ is no error of either.
        return f"{abs(a - b) / stderr[0]:.2f} standard errors"

    def error(a: float, b: float) -> str:
        return f"{abs(a - b) / abs(b):.1e} relative, {abs(a - b):.1e} absolute"

    title, flops = f"KID, {n:,} against {n:,}", pairs_flops(n, n, dim)
    subsets = f"{SUBSETS} subsets of {sizes.subset:,} in float32"
    return [
        Work(title, subsets, lambda: make(False), flops, "fp32", apart),
        Work(title, "the same in float64", lambda: make(True), flops, "fp32", error),
    ]


def works(sizes: Sizes) -> list[Work]:
    """Return all that is compared, in the order of the table."""
    few, many = sizes.few, sizes.many
    return [
        *(frechet(sizes, few, fall, peer, kept=True) for fall in (0.0, 1.0) for peer in FRECHET),
        *(frechet(sizes, few, 0.0, peer) for peer in FRECHET),
        *(frechet(sizes, many, fall, peer) for fall in (0.0, 1.0) for peer in FRECHET),
        *(frechet_of_covariances(sizes, fall, peer) for fall in (0.0, 1.0) for peer in FRECHET),
        manifold(sizes),
        *kid_works(sizes),
    ]


def compare(work: Work, rounds: int, peaks: dict[str, float]) -> Row:
    """Return medians of turns, what of the limit is reached, and how far the values are apart."""
    values: dict[str, float] = {}

    def kept(side: str, call: Call) -> Callable[[], None]:
        return lambda: values.update({side: call()})

    calls = {side: kept(side, call) for side, call in zip(SIDES, work.make(), strict=True)}
    seconds = turns(calls, rounds, TURN_S if rounds > 1 else 0.0)
    ours_s = statistics.median(seconds["ours"])
    ours, peer = (values[side] for side in SIDES)
    relative = abs(ours - peer) / max(abs(peer), 1e-300)
    return {
        "work": work.title, "peer": work.peer, "ours_s": ours_s,
        "peer_s": statistics.median(seconds["peer"]), "ratio": median_ratio(seconds["peer"], seconds["ours"]),
        "difference": work.tell(ours, peer) if work.tell else f"{relative:.1e} relative",
        "share_of_peak": work.flops / ours_s / peaks[work.precision], "precision": work.precision,
    }  # fmt: skip


def exact_frechet(x: NDArray[np.int64], y: NDArray[np.int64], unit: float) -> mpmath.mpf:
    """Return the distance of features ``unit * x`` to ``unit * y``, of small integers.

    Products are exact integers; only the eigenvalues of the Gram matrix and their roots are rounded, to the
    digits that are set.
    """
    n, m = len(x), len(y)
    a, b = n * x - x.sum(axis=0), m * y - y.sum(axis=0)
    across = (a @ b.T).astype(object)
    gram = across @ across.T
    values = mpmath.eigsy(mpmath.matrix(gram.tolist()), eigvals_only=True)
    overlap = mpmath.fsum(mpmath.sqrt(max(value, 0)) for value in values)
    overlap /= mpmath.sqrt((n - 1) * (m - 1)) * n * m
    spread = mpmath.mpf(0)
    for size, rows in ((n, a), (m, b)):
        spread += mpmath.mpf(sum(int(row @ row) for row in rows)) / (size**2 * (size - 1))
    shift = sum(int(value) ** 2 for value in m * x.sum(axis=0) - n * y.sum(axis=0))
    return (mpmath.mpf(shift) / (n * m) ** 2 + spread - 2 * overlap) * mpmath.mpf(unit) ** 2


def frechet_error(n: int, m: int, dim: int, digits: int = 60, steps: int = 256) -> Row:
    """Return our relative error where there are fewer images than dimensions, n the fewer."""
    rng = np.random.default_rng(0)
    x, y = (np.rint(steps * rng.normal(size=(size, dim))).astype(np.int64) for size in (n, m))
    y += steps // 10
    with mpmath.workdps(digits):
        exact = exact_frechet(x, y, 1 / steps)
        error = abs(mpmath.mpf(frechet_distance(x / steps, y / steps)) - exact) / exact
    return {
        "work": f"Fréchet distance, {n:,} against {m:,}, {dim:,} dimensions",
        "peer": f"exact, roots in {digits} digits",
        "difference": f"{float(error):.1e} relative",
    }


def memory_mib(key: int, side: str, *more: str) -> float:
    """Return the memory that a process of its own takes for one side of a work above its features."""
    command = [sys.executable, __file__, "--measure", str(key), side, *more]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def measure(key: int, side: str, sizes: Sizes) -> None:
    """Print how far the peak of memory rises in one side of a work; what that loads is loaded before."""
    works(TINY)[key].make()[SIDES.index(side)]()
    call = works(sizes)[key].make()[SIDES.index(side)]
    print(extra_mib(call))


def table(rows: list[Row], limits: dict[str, float]) -> str:
    """Return a Markdown table, after what the machine can do at most."""
    lines = [
        f"{processor()}, torch {torch.__version__}, {torch.get_num_threads()} threads. "
        "Ratio: peer over ours.", "",
        "| limit, measured | |", "| --- | --: |",
        f"| float32 products | {limits['fp32'] / 1e9:.0f} GFLOP/s |",
        f"| float64 products | {limits['fp64'] / 1e9:.0f} GFLOP/s |",
        f"| copying memory, read and written | {limits['copy'] / 1e9:.1f} GB/s |", "",
        "| work | peer | ours | peer | ratio | of the products' peak | difference | memory, ours / peer |",
        "| --- | --- | --: | --: | --: | --: | --- | --: |",
    ]  # fmt: skip
    for row in rows:
        times = "| | |"
        if "ours_s" in row:
            times = (
                f"{row['ours_s']:.3f} s | {row['peer_s']:.3f} s | {row['ratio']:.1f} "
                f"| {row['share_of_peak']:.0%} of {row['precision']}"
            )
        memory = f"{row['ours_mib']:.0f} / {row['peer_mib']:.0f} MiB" if "peer_mib" in row else ""
        memory = f"{row['ours_mib']:.0f} MiB" if "ours_mib" in row and not memory else memory
        lines.append(f"| {row['work']} | {row['peer']} | {times} | {row.get('difference', '')} | {memory} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few images and dimensions; prints only")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--near", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = QUICK if options.quick else Sizes()
    if options.measure:
        key, side = options.measure
        return measure(int(key), side, replace(sizes, near=options.near or sizes.near))
    limits = {name: gemm_peak(name, 256 if options.quick else 4096) for name in ("fp32", "fp64")}
    limits["copy"] = copy_bandwidth(16 if options.quick else 1024)
    rows = [frechet_error(12, 60, 48)]
    if not options.quick:
        rows.append(frechet_error(100, 5000, DIM))
    for key, work in enumerate(works(sizes)):
        print(f"{work.title}, {work.peer}", file=sys.stderr, flush=True)
        rows.append(compare(work, 1 if options.quick else options.rounds, limits))
        if not options.quick:
            rows[-1] |= {f"{side}_mib": memory_mib(key, side) for side in SIDES}
    if not options.quick:
        rows.append(of_many_neighbours(50_000))
        write_json(RESULTS / "metrics.json", {"limits": limits, "rows": rows})
        write_text(RESULTS / "metrics.md", table(rows, limits))
    print(table(rows, limits))


def of_many_neighbours(n: int) -> Row:
    """Return the memory of the four scores where the peer's would be tens of GiB."""
    key = next(key for key, work in enumerate(works(TINY)) if work.peer == "prdc")
    told = memory_mib(key, "ours", "--near", str(n))
    return {"work": f"the four scores, {n:,} against {n:,}", "peer": "", "ours_mib": told}


if __name__ == "__main__":
    main()
