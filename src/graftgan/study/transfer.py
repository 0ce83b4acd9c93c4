"""Sources, targets and arms on images: what do G and D bring, and which measure would have chosen?

Every unit is a run of the trainer that finetune uses, from both networks of a source, from one of them, or
from none, measured from the same latents at every look (after Grigoryev et al. 2022).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from graftgan.checkpoints.catalogue import SCRATCH, Catalogue
from graftgan.config import Params
from graftgan.context import Context, StopSignal
from graftgan.contract import atomic_path, read_json
from graftgan.data.dataset import ImageSet
from graftgan.device import pick_device
from graftgan.digests import DigestCache
from graftgan.engine import NETWORK_FILE, Job, default_paths
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, Generator, build
from graftgan.locks import true_path
from graftgan.metrics.kid import kid
from graftgan.metrics.manifold import manifold_scores
from graftgan.parallel import processes
from graftgan.params import leaves
from graftgan.places import cache_home, code_digest
from graftgan.runner import display, run_stage
from graftgan.stages.finetune import augmentation
from graftgan.stages.judging import KidJudge, make_judge
from graftgan.stages.prior import check_prior, prepare_prior
from graftgan.stages.specs import stage
from graftgan.stages.start import starting_point
from graftgan.study.units import Record, alone_in, finish_all, settings_key, take_up
from graftgan.training.loop import Loop, Measurement
from graftgan.training.state import StateStore
from graftgan.training.trainer import Trainer
from graftgan.transfer import method
from graftgan.transfer.combinations import check_settings
from graftgan.transfer.penalties import make_penalties
from graftgan.transfer.rehearsal import rehearse
from graftgan.unfinished import Note, noted, tell, unused

Features = NDArray[np.floating]
ARMS = ("both", "g_only", "d_only", "scratch")
# Keys of the parameters that a run reads.
DECIDING = ("finetune", "evaluate.neighbours", "evaluate.recall_neighbours")


@dataclass(frozen=True)
class Plan:
    """What to study.

    Attributes:
        params: All parameters; budget, pace and recipe are those of `finetune`.
        targets: Paths of image sets.
        sources: Names of sources; empty means `rank.sources`.
        seeds: Number of training seeds, from `finetune.seed`.
        arms: Some of `ARMS`.
        workers: Processes at once.
        out: Folder of the study.
    """

    params: Params
    targets: tuple[str, ...]
    sources: tuple[str, ...]
    seeds: int
    arms: tuple[str, ...]
    workers: int
    out: Path


@dataclass(frozen=True)
class Study:
    """What was found.

    Attributes:
        plan: What was asked for.
        rankings: Content of `ranking.json` by target.
        records: One record a run.
    """

    plan: Plan
    rankings: dict[str, Any]
    records: list[Record]


def check(plan: Plan) -> None:
    """Refuse what would compare unlike things, before anything is trained.

    Raises:
        ConfigError: A method, term or prior that needs both networks of a source beside arms that have fresh
            ones, or targets with equal names.
    """
    settings = plan.params.finetune
    if settings.method != "full":
        raise ConfigError(
            f"study transfer has fresh networks, which finetune.method={settings.method} would keep fixed",
            "set finetune.method=full",
        )
    check_settings(settings)
    _check_arms(plan)
    names = [Path(target).stem for target in plan.targets]
    if len(set(names)) < len(names):
        raise ConfigError(f"two of --targets have the same name: {names}", "rename one of the files")


def _check_arms(plan: Plan) -> None:
    """Refuse terms and priors that are of a source beside arms that lack it or a part of it."""
    settings, others = plan.params.finetune, [arm for arm in ARMS if arm in plan.arms and arm != "both"]
    if settings.penalties and others:
        raise ConfigError(
            f"finetune.penalties=[{', '.join(settings.penalties)}] with --arms {', '.join(others)}: "
            "fresh networks would be held to what they did not start from",
            "set finetune.penalties=[], or study --arms both alone",
        )
    if settings.prior == "gmm" and others:
        raise ConfigError(
            f"finetune.prior=gmm with --arms {', '.join(others)}: latents found in a source say nothing to "
            "fresh networks",
            "set finetune.prior=normal, or study --arms both alone",
        )
    if settings.prior == "gmm_to_normal":
        raise ConfigError(
            "finetune.prior=gmm_to_normal with study transfer, whatever its --arms: images of the "
            "same latents are compared at every look, and the latents would move",
            "set finetune.prior=normal, or prior=gmm with --arms both alone",
        )
    check_prior(settings, training_images=None)


def take(gan: Gan, arm: str, seed: int) -> Gan:
    """Return a source's networks with what the arm does not take freshly initialised.

    A fresh G has a fresh average: the source's average would leak into everything that is measured.

    Args:
        gan: Networks of the source; for `scratch` they are fresh already.
        arm: One of `ARMS`.
        seed: Seed of the fresh weights.
    """
    fresh = build(gan.spec, seed) if arm in ("g_only", "d_only") else None
    if arm == "g_only" and fresh is not None:
        return Gan(gan.spec, gan.generator, fresh.discriminator, gan.generator_ema)
    if arm == "d_only" and fresh is not None:
        average = copy.deepcopy(fresh.generator).eval().requires_grad_(False)
        return Gan(gan.spec, fresh.generator, gan.discriminator, average)
    return gan


class Looks:
    """A judge that keeps the features of every look, by images seen; the judge within decides.

    Args:
        judge: Measures KID from fixed latents.
        folder: Where the features go.
    """

    def __init__(self, judge: KidJudge, folder: Path) -> None:
        self.judge, self.folder = judge, folder
        self.trainer: Trainer | None = None

    def measure(self, generator: Generator) -> Measurement:
        """Measure, and keep the features; a look repeated after an interruption replaces the first."""
        found = self.judge.measure(generator)
        seen = 0 if self.trainer is None else self.trainer.images_seen
        with atomic_path(self._file(seen)) as temporary:
            save_file({"features": found.features.contiguous()}, temporary)
        return found

    def improves(self, new: Measurement, best: Measurement) -> bool:
        """As the judge within."""
        return self.judge.improves(new, best)

    def features(self, images_seen: int) -> Features:
        """Return the features [N, dim] of a look."""
        array: Features = load_file(self._file(images_seen))["features"].numpy()
        return array

    def _file(self, images_seen: int) -> Path:
        return self.folder / f"{images_seen:09d}.safetensors"


@dataclass(frozen=True)
class Run:
    """One arm of one source on one target with one seed.

    Attributes:
        root: Folder of the units.
        target: Name of the target.
        dataset: The packed image set.
        source: Name of the source, or scratch.
        digest: sha256 of the source, empty for scratch.
        arm: One of `ARMS`.
        params: All parameters, with the seed of the run.
    """

    root: Path
    target: str
    dataset: Path
    source: str
    digest: str
    arm: str
    params: Params

    @property
    def label(self) -> str:
        """What is run, in words."""
        return f"{self.source}-{self.arm}-{self.params.finetune.seed}"

    @cached_property
    def note(self) -> Note:
        """All that decides its result."""
        inputs = {"source": self.digest, "dataset": ImageSet.open(self.dataset).digest}
        if found := NETWORK_FILE.match(self.params.finetune.validation_extractor):
            network = Path(found["path"]).expanduser()
            inputs["finetune.validation_extractor"] = DigestCache(cache_home()).digest(network)
        place = true_path(self.root / self.label)
        return Note(str(place), leaves(self.params, DECIDING), code_digest(), inputs)

    @property
    def name(self) -> str:
        """Name of the run, by all that decides its result but the code, which its record tells."""
        return f"{self.label}-{settings_key(self._deciding())}"

    @property
    def file(self) -> Path:
        """Where its record goes."""
        return self.root / f"{self.name}.json"

    def state(self, ctx: Context) -> Path:
        """Return where its state is saved; that of other code lies elsewhere."""
        key = settings_key({**self._deciding(), "code": self.note.code})
        return ctx.state / self.target / f"{self.label}-{key}"

    def _deciding(self) -> dict[str, Any]:
        return {"config": self.note.config, "inputs": self.note.inputs}

    def work(self, ctx: Context) -> Record:
        """Train, going on from a saved state, and return the curves."""
        state = self.state(ctx)
        tell(f"{self.target}, {self.label}", unused(state, self.note), ctx.resume, ctx.log)
        with noted(state, self.note):
            # Whether there is something to go on with was asked of the study, not of each of its units.
            return self._curves(replace(ctx, resume="auto"), state)

    def _curves(self, ctx: Context, folder: Path) -> Record:
        data, settings = ImageSet.open(self.dataset), self.params.finetune
        start = starting_point(self.source, data, self.params, ctx.cache)
        gan = take(start.gan, self.arm, settings.seed)
        # A prior that came with the source is of its images, and fresh networks have none.
        gan.prior = None
        prior = None
        if self.arm == "both" and settings.prior != "normal":
            rehearse(gan, method("full"), settings)
            prior = prepare_prior(start, self.label, data, self.params, ctx)
        method("full").apply(gan, settings)
        fresh = self.arm in ("d_only", "scratch")
        gan.generator.freeze_statistics(not fresh)
        labels = np.maximum(data.labels("train"), 0) if gan.spec.classes else None
        device = pick_device(self.params.runtime.device)
        compiled = self.params.runtime.compile
        judge, _ = make_judge(data, self.params, ctx)
        looks = Looks(judge, folder / "looks")
        train = data.images("train")
        trainer = Trainer(gan, train, labels, settings, augmentation(settings), device, fresh, compiled)
        if prior is not None:
            trainer.set_prior(prior.moving)
        trainer.add_penalties(make_penalties(settings) if self.arm == "both" else [])
        looks.measure(gan.generator_ema)
        looks.trainer = trainer
        store = StateStore(folder / "states", self.params.runtime.keep_states)
        history = Loop(self.name, trainer, looks, store, ctx, self.params.runtime.save_every_s).run()
        strength = {int(row["images_seen"]): row["ada_p"] for row in history.rows}
        steps = [0, *history.frame_images]
        curve = curves(looks, steps, judge.real, self.params)
        for look in curve:
            look["ada_p"] = strength.get(int(look["images"]), 0.0)
        return {
            "target": self.target, "source": self.source, "arm": self.arm, "seed": settings.seed,
            "protocol": judge.extractor.protocol, "real_distance": typical_distance(judge.real),
            "rollbacks": history.rollbacks, "curve": curve,
        }  # fmt: skip


def curves(looks: Looks, steps: Sequence[int], real: Features, params: Params) -> list[dict[str, float]]:
    """Return all measures at each look, and how far each latent's image moved since the look before."""
    k = min(params.evaluate.recall_neighbours, len(real) - 1)
    near = min(params.evaluate.neighbours, len(real) - 1)
    rows = []
    for images in steps:
        fake = looks.features(images)
        distance = kid(fake, real)
        manifold = manifold_scores(fake, real, k_precision_recall=k, k_density_coverage=near)
        rows.append(
            {
                "images": float(images), "kid": distance.value, "kid_low": distance.low,
                "kid_high": distance.high,
                **{name: estimate.value for name, estimate in vars(manifold).items()},
            }
        )  # fmt: skip
    for (before, after), row in zip(pairwise(steps), rows[1:], strict=True):
        moved = displacement(looks.features(before), looks.features(after))
        row["moved"] = float(moved.mean())
        row["moved_low"], row["moved_high"] = (float(q) for q in np.quantile(moved, (0.1, 0.9)))
    return rows


def displacement(before: Features, after: Features) -> NDArray[np.float64]:
    """Return the distance [N] in feature space between images of the same latents, row by row."""
    gaps: NDArray[np.float64] = np.linalg.norm(after.astype(np.float64) - before, axis=1)
    return gaps


def typical_distance(features: Features) -> float:
    """Return the mean distance between two different rows, the yardstick of displacements."""
    x = np.asarray(features, np.float64)
    total = sum(float(np.linalg.norm(x - row, axis=1).sum()) for row in x)
    return total / (len(x) * (len(x) - 1))


def settings_of(plan: Plan, target: str) -> Params:
    """Return the parameters of one target; nothing is tracked."""
    params = plan.params
    data = params.data.model_copy(update={"path": target})
    rank = params.rank.model_copy(update={"sources": list(plan.sources)} if plan.sources else {})
    track = params.track.model_copy(update={"mode": "off"})
    return params.model_copy(update={"data": data, "rank": rank, "track": track})


def runs_of(plan: Plan, target: str, params: Params, ranked: Collection[str]) -> list[Run]:
    """Return the runs of one prepared target; scratch is run once a seed, not once a source.

    Sources that were not ranked cannot be trained on the images.
    """
    folder = plan.out / Path(target).stem
    dataset = folder / "prepare" / "dataset"
    runs = []
    for seed in range(params.finetune.seed, params.finetune.seed + plan.seeds):
        seeded = params.model_copy(update={"finetune": params.finetune.model_copy(update={"seed": seed})})
        common: dict[str, Any] = {
            "root": folder / "units", "target": Path(target).stem, "dataset": dataset, "params": seeded,
        }  # fmt: skip
        if "scratch" in plan.arms:
            runs.append(Run(source=SCRATCH, digest="", arm="scratch", **common))
        sources = Catalogue(params.rank.catalogue, cache_home()).select(params.rank.sources)
        for source in (source for source in sources if source.name in ranked):
            arms = [arm for arm in plan.arms if arm != "scratch"]
            runs += [Run(source=source.name, digest=source.sha256, arm=arm, **common) for arm in arms]
    return runs


def run(plan: Plan, stop: StopSignal, resume: str = "auto") -> Study:
    """Prepare and rank each target, do the runs that are not done, and return everything.

    Args:
        plan: What to study.
        stop: The process's stop signal.
        resume: What to do about runs that are done or begun; see `take_up`.

    Raises:
        ConfigError: As `check`.
        MissingInput: As `take_up`.
        TryAgain: Another process works in the folder of the study.
        Interrupted: A signal came; the runs under way saved their state.
    """
    check(plan)
    with alone_in(plan.out, "study transfer"):
        rankings, runs = {}, []
        for target in plan.targets:
            params = settings_of(plan, target)
            folder = plan.out / Path(target).stem
            for name in ("prepare", "rank"):
                run_stage(Job(stage(name), params, *default_paths(stage(name), folder)), stop)
            ranking = read_json(folder / "rank" / "ranking" / "ranking.json")
            rankings[Path(target).stem] = ranking
            runs += runs_of(plan, target, params, {row["name"] for row in ranking["rows"]})
        at_once = plan.workers if processes(plan.params.runtime) > 1 else 1
        with display() as progress:
            ctx = Context(plan.out / "states", cache_home(), progress=progress, stop=stop, resume=resume)
            take_up(runs, plan.out, ctx)
            records = finish_all(runs, ctx, plan.params.runtime.threads, at_once)
    return Study(plan, rankings, records)
