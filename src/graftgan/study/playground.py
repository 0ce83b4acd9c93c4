"""The two-dimensional playground: does recall at the start tell the outcome, and what do G and D bring?

Two parts. *Correlation* adapts every checkpoint of both sources in the published setting, without a penalty.
*Arms* starts from both networks, one of them, none, or a crossed pair, with R1 so that the game is stable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from graftgan.checkpoints.store import read_tensors
from graftgan.context import Context
from graftgan.contract import atomic_path, digest_file, digest_text, read_json
from graftgan.errors import MissingInput
from graftgan.metrics.precision_recall import precision, recall
from graftgan.study.nets import LR, Duel, Pair, draw, fresh_pair
from graftgan.study.plane import LAWS, gradient_similarity, modes_and_fidelity, ring_centres, wasserstein
from graftgan.study.units import Record, alone_in, finish_all, settings_key, take_up

SOURCES = ("I", "II")
# What a source's record says of its checkpoints; records of old do not say.
WEIGHTS = "weights_sha256"
NEIGHBOURS = 5
ARM_R1_GAMMA = 1.0
# Name: where G and D come from; None is a fresh network.
ARMS: dict[str, tuple[str | None, str | None]] = {
    "scratch": (None, None),
    "I both": ("I", "I"), "I, G only": ("I", None), "I, D only": (None, "I"),
    "II both": ("II", "II"), "II, G only": ("II", None), "II, D only": (None, "II"),
    "G of I, D of II": ("I", "II"), "G of II, D of I": ("II", "I"),
}  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """How much of the playground is done.

    Attributes:
        source_steps: Generator steps of a source.
        every: Generator steps between its checkpoints.
        adapt_steps: Generator steps from each checkpoint to the target.
        arm_source_steps: Generator steps of the sources of the arms.
        arm_steps: Generator steps of each arm.
        test_every: Generator steps between tests.
        points: Points a side of each W1.
        recall_points: Points a side of recall, precision and the gradients.
        lr: Learning rate of all networks.
    """

    source_steps: int = 5000
    every: int = 50
    adapt_steps: int = 1000
    arm_source_steps: int = 5000
    arm_steps: int = 2000
    test_every: int = 250
    points: int = 2048
    recall_points: int = 1000
    lr: float = LR


QUICK = Scale(1000, 200, 200, 1000, 400, 50, 512, 512, 1e-3)


def seed_of(*words: object) -> int:
    """Return a seed that depends on the words alone."""
    return int(digest_text(" ".join(map(str, words)))[:8], 16)


@dataclass(frozen=True)
class Pretraining:
    """A source, trained and kept at every checkpoint.

    Attributes:
        root: Folder of the units.
        law: I or II.
        seed: Seed of the run.
        part: correlation is without a penalty, arms with R1 and only the last checkpoint.
        scale: How much.
    """

    root: Path
    law: str
    seed: int
    part: Literal["correlation", "arms"]
    scale: Scale

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"source-{self.part}-{self.law}-{self.seed}"

    @property
    def file(self) -> Path:
        """Where its record goes."""
        return self.root / f"{self.name}.json"

    @property
    def weights(self) -> Path:
        """Where its checkpoints go, by `step.network.tensor`."""
        return self.root / f"{self.name}.safetensors"

    @property
    def steps(self) -> list[int]:
        """Steps of its checkpoints."""
        scale = self.scale
        if self.part == "arms":
            return [scale.arm_source_steps]
        return list(range(0, scale.source_steps + 1, scale.every))

    def work(self, ctx: Context) -> Record:
        """Train, write the checkpoints and return the trace of W1 to the own law."""
        scale, kept = self.scale, set(self.steps)
        pair = fresh_pair(seed_of("start", self.seed))
        tensors = pair.state("0.") if 0 in kept else {}
        own = LAWS[self.law](scale.points, torch.Generator().manual_seed(seed_of("own", self.law)))
        trace: list[tuple[int, float]] = []

        def watch(step: int, pair: Pair) -> None:
            if step in kept:
                tensors.update(pair.state(f"{step}."))
            if step % scale.test_every == 0:
                trace.append((step, wasserstein(draw(pair.generator, scale.points, 0), own.numpy())))

        gamma = ARM_R1_GAMMA if self.part == "arms" else 0.0
        seed = seed_of("source", self.law, self.seed)
        Duel(pair, LAWS[self.law], seed, gamma, scale.lr).run(self.steps[-1], watch)
        with atomic_path(self.weights) as temporary:
            save_file(tensors, temporary)
        about = {"law": self.law, "seed": self.seed, "part": self.part, "trace": trace}
        return {**about, WEIGHTS: digest_file(self.weights)}

    def check(self, record: Record) -> None:
        """Look whether the checkpoints are those that the record was written with.

        Raises:
            MissingInput: They are gone or damaged.
        """
        if not self.weights.is_file():
            raise MissingInput(f"{self.weights} does not exist")
        if record.get(WEIGHTS) not in (None, digest_file(self.weights)):
            raise MissingInput(f"{self.weights} is damaged: its checksum differs")


@dataclass(frozen=True)
class Adaptation:
    """One start, adapted to the ten modes.

    Attributes:
        root: Folder of the units.
        name: Name of its file.
        generator: What G and its average come from, with the step; None is fresh.
        discriminator: The same for D.
        facts: What it is, for the table.
        steps: Generator steps.
        r1_gamma: Weight of R1.
        seed: Seed of the run.
        scale: How much.
    """

    root: Path
    name: str
    generator: tuple[Path, int] | None
    discriminator: tuple[Path, int] | None
    facts: tuple[tuple[str, Any], ...]
    steps: int
    r1_gamma: float
    seed: int
    scale: Scale

    @property
    def file(self) -> Path:
        """Where its record goes."""
        return self.root / f"{self.name}.json"

    def work(self, ctx: Context) -> Record:
        """Measure the start, adapt, and return all curves."""
        scale = self.scale
        pair = fresh_pair(seed_of("fresh", self.seed))
        if self.generator is not None:
            pair.load_generator(read_tensors(self.generator[0]), f"{self.generator[1]}.")
        if self.discriminator is not None:
            pair.load_discriminator(read_tensors(self.discriminator[0]), f"{self.discriminator[1]}.")
        curve = [look(pair, 0, scale)]
        tested = {1, *range(scale.test_every, self.steps + 1, scale.test_every), self.steps}

        def watch(step: int, pair: Pair) -> None:
            if step in tested:
                curve.append(look(pair, step, scale))

        law = LAWS["target"]
        Duel(pair, law, seed_of("adapt", self.seed), self.r1_gamma, scale.lr).run(self.steps, watch)
        points = draw(pair.generator, 256, 1).round(2).tolist()
        return {**dict(self.facts), "seed": self.seed, "curve": curve, "points": points}


def look(pair: Pair, step: int, scale: Scale) -> dict[str, float]:
    """Measure a pair against the target: W1, recall, precision, gradients, modes, fidelity."""
    rng = torch.Generator().manual_seed(seed_of("target"))
    target = LAWS["target"](max(scale.points, scale.recall_points), rng)
    points = draw(pair.generator, max(scale.points, scale.recall_points), 0)
    some, real = points[: scale.recall_points], target[: scale.recall_points].numpy()
    modes, fidelity = modes_and_fidelity(points)
    return {
        "step": step,
        "w1": wasserstein(points[: scale.points], target[: scale.points].numpy()),
        "recall": recall(real, some, k=NEIGHBOURS).value,
        "precision": precision(some, real, k=NEIGHBOURS).value,
        "gradient_similarity": gradient_similarity(
            pair.discriminator, torch.from_numpy(some), ring_centres()
        ),
        "modes": modes,
        "fidelity": fidelity,
    }


def pretrainings(
    root: Path, seeds: int, scale: Scale, laws: Sequence[str] = SOURCES, arms: bool = True
) -> list[Pretraining]:
    """Return the sources: those of the correlation, and both that the arms take, if there are to be arms."""
    seeded = range(seeds)
    correlated = [Pretraining(root, law, s, "correlation", scale) for s in seeded for law in laws]
    crossed = [Pretraining(root, law, s, "arms", scale) for s in seeded for law in SOURCES]
    return correlated + (crossed if arms else [])


def coarse_first(source: Pretraining) -> list[int]:
    """Return a source's checkpoints by halved gaps, so that those of a run cut short are evenly spread."""
    steps, order, gap = source.steps, [source.steps[0]], 1
    while gap < len(steps):
        gap *= 2
    while gap > 1:
        gap //= 2
        order += [step for step in steps[gap::gap] if step not in order]
    return order


def correlation_units(root: Path, sources: list[Pretraining], scale: Scale) -> list[Adaptation]:
    """Return the adaptation of every checkpoint, in the published setting, in the order they are done."""
    return [
        Adaptation(
            root, f"checkpoint-{source.law}-{source.seed}-{step}", (source.weights, step),
            (source.weights, step), (("source", source.law), ("step", step)),
            scale.adapt_steps, 0.0, source.seed, scale,
        )
        for source in sources if source.part == "correlation" for step in coarse_first(source)
    ]  # fmt: skip


def arm_units(root: Path, sources: list[Pretraining], seeds: int, scale: Scale) -> list[Adaptation]:
    """Return every arm of every seed, with R1."""
    last = {(s.law, s.seed): (s.weights, s.steps[-1]) for s in sources if s.part == "arms"}
    return [
        Adaptation(
            root, f"arm-{arm.replace(', ', '-').replace(' ', '-')}-{seed}",
            last[g, seed] if g else None, last[d, seed] if d else None,
            (("arm", arm),), scale.arm_steps, ARM_R1_GAMMA, seed, scale,
        )
        for seed in range(seeds) for arm, (g, d) in ARMS.items()
    ]  # fmt: skip


@dataclass(frozen=True)
class Playground:
    """All records.

    Attributes:
        scale: How much was done.
        seeds: Number of seeds.
        sources: Records of the sources.
        checkpoints: Records of the adapted checkpoints.
        arms: Records of the arms.
    """

    scale: Scale
    seeds: int
    sources: list[Record]
    checkpoints: list[Record]
    arms: list[Record]


def run(
    out: Path,
    seeds: int,
    scale: Scale,
    ctx: Context,
    workers: int,
    laws: Sequence[str] = SOURCES,
    with_arms: bool = True,
) -> Playground:
    """Do what is not done yet and return everything.

    Args:
        out: Folder of the study; its units lie in `units/KEY`, where the key is that of the scale.
        seeds: Number of seeds, from 0.
        scale: How much.
        ctx: Progress, log, stop signal, and what to do about units that are done; see `take_up`.
        workers: Processes at once.
        laws: Sources whose checkpoints are adapted.
        with_arms: Whether the arms are done.

    Raises:
        MissingInput: As `take_up`.
        TryAgain: Another process works in the folder.
        Interrupted: A signal came; finished units stay.
    """
    root = out / "units" / settings_key(asdict(scale))
    sources = pretrainings(root, seeds, scale, laws, with_arms)
    units = correlation_units(root, sources, scale)
    if with_arms:
        units += arm_units(root, sources, seeds, scale)
    with alone_in(out, "study playground"):
        take_up([*sources, *units], out, ctx)
        about_sources = finish_all(sources, ctx, 1, workers)
        records = finish_all(units, ctx, 1, workers)
    return gather(scale, seeds, about_sources, records)


def gather(scale: Scale, seeds: int, sources: list[Record], records: Sequence[Record]) -> Playground:
    """Sort records into those of checkpoints, by source and step, and those of arms."""
    checkpoints = [record for record in records if "arm" not in record]
    checkpoints.sort(key=lambda record: (record["seed"], SOURCES.index(record["source"]), record["step"]))
    return Playground(scale, seeds, sources, checkpoints, [r for r in records if "arm" in r])


def finished(out: Path, seeds: int, scale: Scale) -> Playground:
    """Return what is done of a study that is not at its end, without doing any of it."""
    root = out / "units" / settings_key(asdict(scale))
    sources = pretrainings(root, seeds, scale)
    units = [*correlation_units(root, sources, scale), *arm_units(root, sources, seeds, scale)]
    known, records = ([read_json(u.file) for u in some if u.file.is_file()] for some in (sources, units))
    return gather(scale, seeds, known, records)
