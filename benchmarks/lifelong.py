"""What does a task bank cost and forget, against models of their own and against fine-tuning one model?

Five tasks at 64 px are learnt in sequence: by a model of its own each, by fine-tuning one model (which
forgets), and by Piggyback GAN at several lambda, started at random and warm from the task that `tasks rank`
puts first. All have one generator, recipe and budget. Test images are scored; finished tasks are kept in
`--work` and not repeated, and a stopped one goes on where it was. It takes some 50 minutes of one
core. Reports of the banks at lambda 1/4, with the standalone models beside, are left in `--work` too.

    python benchmarks/lifelong.py [--kimg 2.4] [--shares 0.125 0.25 0.5 1] [--workers 2]
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from lifelong_table import AGAIN, ALONE, TUNED, label, summarise, table
from numpy.typing import NDArray

from graftgan.bank.accounting import costs
from graftgan.bank.files import sha256
from graftgan.bank.manifest import NAME as MANIFEST
from graftgan.bank.store import Bank
from graftgan.bank.tasks import RANDOM, WARM, begin, finish, verify
from graftgan.bank.tasks import load_task as stored_generator
from graftgan.config import Runtime
from graftgan.context import Context, StopSignal
from graftgan.contract import canonical_json, digest_text, read_json, write_json, write_text
from graftgan.data.pairs import Part, TaskImages, load_task
from graftgan.errors import CheckpointError
from graftgan.gans.translation import TranslatorSpec
from graftgan.lifelong_config import TaskData, Translate, TranslationScores
from graftgan.metrics.features import Extractor, make_extractor
from graftgan.metrics.kid import kid
from graftgan.metrics.scores import metric_name
from graftgan.metrics.translation import paired_values, summarised
from graftgan.parallel import run_all
from graftgan.places import cache_home
from graftgan.reporting.bank_facts import Results, read_facts
from graftgan.reporting.bank_page import render
from graftgan.reporting.sheets import save_png
from graftgan.stages.lifelong import Settings, example_sheet, learn_task, rank_inits
from graftgan.stages.warm_starts import Looking
from graftgan.training.translators import translate

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TASKS: dict[str, dict[str, Any]] = {
    "edges-micah": {"target": "data/micah.parquet", "make": "edges"},
    "colour-adventurer": {"target": "data/adventurer.parquet", "make": "grey"},
    "sharp-toon-head": {"target": "data/toon-head.parquet", "make": "lowres"},
    "edges-big-smile": {"target": "data/big-smile.parquet", "make": "edges"},
    "sharp-emoji": {"target": "data/fluent-emoji.parquet", "make": "lowres"},
}
"""The tasks in the order in which they are learnt; paths are below the repository."""
# Instance norm takes the colours out of an image, and short budgets do not bring them back.
SPEC = TranslatorSpec(kind="resnet_6", ngf=16, norm="batch")
RECIPE = {"batch": 4, "lr": 0.001, "ndf": 16, "precision": "bf16"}
EXTRACTOR = "efflite0-128"
TEST_IMAGES = 256
PREVIOUS = "previous"


@dataclass(frozen=True)
class Setting:
    """What all arms share.

    Attributes:
        kimg: Budget of a task.
        tasks: Name -> description of its images, in order.
        spec: The generator.
        recipe: Keys of the recipe.
        extractor: What features are.
        looking: How closely starts are looked at.
    """

    kimg: float
    tasks: Mapping[str, Mapping[str, Any]]
    spec: TranslatorSpec = SPEC
    recipe: Mapping[str, Any] = field(default_factory=lambda: RECIPE)
    extractor: str = EXTRACTOR
    looking: Looking = field(default_factory=Looking)

    @property
    def key(self) -> str:
        """Name of the folder of what was made so."""
        told = [self.tasks, self.spec.to_dict(), self.recipe, self.extractor, TEST_IMAGES]
        told.append(vars(self.looking))
        return f"{self.kimg:g}kimg-{digest_text(canonical_json(told))[:8]}"

    def settings(self, init: str, seed: int) -> Settings:
        """Return how a task is learnt."""
        recipe = {**self.recipe, "budget": {"kimg": self.kimg}, "seed": seed}
        recipe["evaluate_every_kimg"] = self.kimg / 2
        scores = TranslationScores(
            extractor=self.extractor, validation_extractor=self.extractor, max_images=TEST_IMAGES
        )
        return Settings(Translate.model_validate(recipe), scores, Runtime(device="cpu"), init)

    def images(self, name: str) -> TaskImages:
        """Read the images of a task."""
        given = {"resolution": 64, **self.tasks[name]}
        return load_task(TaskData.model_validate({**given, "target": str(ROOT / given["target"])}))


@dataclass(frozen=True)
class Chain:
    """Tasks learnt one after another into one bank.

    Attributes:
        setting: What all arms share.
        folder: Where its bank and records lie.
        tasks: Names, in order.
        share: Lambda.
        start: `random`, `warm`, or `previous` for the task before.
        seed: Seed of the training.
        first: Bank of which the first task is taken over; None learns it.
    """

    setting: Setting
    folder: Path
    tasks: tuple[str, ...]
    share: float
    start: str
    seed: int = 0
    first: Path | None = None


def run_chain(chain: Chain, ctx: Context) -> list[dict[str, Any]]:
    """Learn what is missing of a chain and return the record of every task."""
    if not (chain.folder / "bank" / MANIFEST).exists():
        Bank.create(chain.folder / "bank", chain.setting.spec, chain.share)
    bank = Bank(chain.folder / "bank")
    images: dict[str, TaskImages] = {}
    records = []
    for name in chain.tasks:
        record = chain.folder / f"{name}.json"
        if not record.is_file():
            for seen in chain.tasks[: chain.tasks.index(name) + 1]:
                images.setdefault(seen, chain.setting.images(seen))
            if any(task.name == name for task in bank.tasks):
                bank.remove(name)
            ctx.log.info("%s: %s", chain.folder.name, name)
            write_json(record, _learn(chain, bank, name, images, ctx))
        records.append(read_json(record))
    return records


def _learn(
    chain: Chain, bank: Bank, name: str, images: dict[str, TaskImages], ctx: Context
) -> dict[str, Any]:
    """Add one task to the bank and score it, and look at what the earlier ones are now."""
    extractor = make_extractor(chain.setting.extractor)
    told: dict[str, Any] = {"init": RANDOM, "ranked": None, "rank_s": 0.0, "curves": [], "warnings": []}
    if chain.first is not None and not bank.tasks:
        told |= _adopt(bank, name, chain.first, images[name])
    else:
        told |= _start(chain, bank, name, images[name])
        settings = chain.setting.settings(told["init"], chain.seed)
        around = replace(ctx, state=chain.folder / "states")
        learnt = learn_task(bank, name, images[name], settings, around)
        told |= {"seconds": learnt.history.elapsed_s, "warnings": list(learnt.warnings)}
        told["curves"] = learnt.history.rows
    generator = stored_generator(bank, name)
    part = shown(images[name])
    outputs = translate(generator, part.inputs)
    save_png(example_sheet(generator, images[name]), chain.folder / f"{name}.png")
    cost = costs(bank)[-1]
    return {
        **told, **scored(outputs, part, extractor), "task": name, "outputs": sha256(outputs.tobytes()),
        "added": cost.added, "full": cost.full, "cumulative_ratio": cost.cumulative_ratio,
        "earlier": _earlier(chain, bank, name, images, extractor),
        "protocol": extractor.protocol,
    }  # fmt: skip


def _adopt(bank: Bank, name: str, first: Path, images: TaskImages) -> dict[str, Any]:
    """Take a model of its own over as the first task; return how its training went."""
    begun = begin(bank, name)
    begun.generator.load_state_dict(stored_generator(Bank(first / "bank"), name).state_dict())
    finish(bank, begun, size_px=images.data.resolution, data_fingerprint=images.digest)
    record = read_json(first / f"{name}.json")
    return {key: record[key] for key in ("seconds", "curves", "warnings")}


def _start(chain: Chain, bank: Bank, name: str, images: TaskImages) -> dict[str, Any]:
    """Return where a task starts, and how the starts were ranked."""
    if not bank.tasks or chain.start == RANDOM:
        return {"init": RANDOM}
    if chain.start == PREVIOUS:
        return {"init": f"{WARM}{bank.tasks[-1].name}"}
    before = time.monotonic()
    setting = chain.setting
    ranking = rank_inits(bank, name, images, setting.settings(RANDOM, chain.seed), looking=setting.looking)
    warm = next(start.init for start in ranking.starts if start.init != RANDOM)
    told = {"chosen": ranking.chosen, "tied": list(ranking.tied), "why": ranking.why}
    return {"init": warm, "ranked": told, "rank_s": time.monotonic() - before}


def _earlier(
    chain: Chain, bank: Bank, name: str, images: dict[str, TaskImages], extractor: Extractor
) -> dict[str, Any]:
    """Return what each earlier task gives now: by the one model that is fine-tuned, else by its own."""
    found: dict[str, Any] = {}
    for seen in chain.tasks[: chain.tasks.index(name)]:
        part = shown(images[seen])
        tuned = chain.start == PREVIOUS
        outputs = translate(stored_generator(bank, name if tuned else seen), part.inputs)
        found[seen] = {"outputs": sha256(outputs.tobytes())}
        if tuned:
            found[seen] |= scored(outputs, part, extractor)
    return found


def shown(images: TaskImages) -> Part:
    """Return the test images that are scored."""
    part = images.part("test")
    count = TEST_IMAGES
    return Part(part.inputs[:count], part.targets[:count], part.names[:count], part.groups[:count])


def scored(outputs: NDArray[np.uint8], part: Part, extractor: Extractor) -> dict[str, Any]:
    """Return scores with intervals, the values of each image, and its group."""
    values = paired_values(outputs, part.targets, extractor)
    found = summarised(values, part.groups)
    found[metric_name("kid", extractor.protocol)] = kid(extractor(outputs), extractor(part.targets))
    return {
        "scores": {name: vars(estimate) for name, estimate in found.items()},
        "values": {name: series.tolist() for name, series in values.items()},
        "groups": list(part.groups),
    }


def arms(setting: Setting, work: Path, shares: list[float]) -> tuple[list[Chain], list[Chain]]:
    """Return the models of their own, two seeds of each, and the chains that begin with the first of them."""
    names = tuple(setting.tasks)
    alone = [
        Chain(setting, work / f"{arm}-{name}", (name,), 1.0, RANDOM, seed)
        for arm, seed in ((ALONE, 0), (AGAIN, 1))
        for name in names
    ]
    first = alone[0].folder
    # With lambda 1 a warm start is the model before, free to move: fine-tuning.
    chains = [Chain(setting, work / TUNED, names, 1.0, PREVIOUS, first=first)]
    for share in shares:
        chains += [
            Chain(setting, work / label(share, start), names, share, start, first=first)
            for start in (RANDOM, "warm")
        ]
    return alone, chains


def collect(alone: list[Chain], chains: list[Chain]) -> dict[str, list[dict[str, Any]]]:
    """Return the records of every arm whose chain is complete, by arm, in the order of the tasks."""
    found: dict[str, list[dict[str, Any]]] = {}
    for chain in [*alone, *chains]:
        arm = chain.folder.name.removesuffix(f"-{chain.tasks[0]}")
        records = [chain.folder / f"{name}.json" for name in chain.tasks]
        if all(record.is_file() for record in records):
            found.setdefault(arm, []).extend(read_json(record) for record in records)
    count = len(alone) // 2
    return {arm: records for arm, records in found.items() if len(records) == count}


def check(chain: Chain) -> None:
    """Verify the bank of a chain.

    Raises:
        CheckpointError: Something in it has changed.
    """
    if findings := verify(Bank(chain.folder / "bank")):
        raise CheckpointError(f"{chain.folder} is damaged: {findings[0]}", "remove the folder")


def report(chain: Chain, records: Mapping[str, list[dict[str, Any]]], out: Path) -> None:
    """Write the report of a chain's bank, with the models of their own beside it."""
    rows: list[dict[str, Any]] = []
    for name, alone in zip(chain.tasks, records[ALONE], strict=True):
        own, folder = read_json(chain.folder / f"{name}.json"), out / "tasks" / name
        images = chain.setting.images(name)
        facts = {
            "scores": own["scores"], "seconds": own["seconds"], "warnings": own["warnings"],
            "images": {split: len(part.inputs) for split, part in images.parts.items()},
            "data": images.data.model_dump(mode="json"), "licences": images.licences,
            "why": own["ranked"]["why"] if own["ranked"] else "",
        }  # fmt: skip
        write_json(folder / "result.json", facts)
        columns = list(dict.fromkeys(key for row in own["curves"] for key in row))
        lines = [columns, *([row.get(key, "") for key in columns] for row in own["curves"])]
        write_text(folder / "curves.csv", "".join(",".join(map(str, line)) + "\n" for line in lines))
        write_json(folder / "standalone.json", {"scores": alone["scores"], "seconds": alone["seconds"]})
        (folder / "examples.png").write_bytes((chain.folder / f"{name}.png").read_bytes())
        digests = {**{seen: its["outputs"] for seen, its in own["earlier"].items()}, name: own["outputs"]}
        done = {seen: read_json(chain.folder / f"{seen}.json")["scores"] for seen in digests}
        looks = {seen: {"scores": done[seen], "outputs_sha256": digests[seen]} for seen in digests}
        rows.append({"after": name, "tasks": looks})
    write_json(out / "scores.json", {"rows": rows})
    bank = Bank(chain.folder / "bank")
    facts = read_facts(bank, Results.below(out), tuple(map(str, verify(bank))))
    write_text(out / "report.html", render(facts, f"{len(rows)} tasks at lambda {chain.share:g}"))


def main() -> None:
    """Run everything that is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kimg", type=float, default=2.4, help="images a task is trained on, in thousands")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.125, 0.25, 0.5, 1.0], help="lambdas")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "benchmarks" / "lifelong")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("graftgan").setLevel(logging.INFO)
    stop = StopSignal()
    stop.install()
    setting = Setting(options.kimg, TASKS)
    work = options.work / setting.key
    alone, chains = arms(setting, work, options.shares)
    ctx = Context(work / "states", cache_home(), stop=stop)
    for group in (alone, chains):
        run_all(run_chain, group, ctx, 1, options.workers)
    for chain in chains:
        check(chain)
    records = collect(alone, chains)
    results = summarise(records, options.kimg, options.shares)
    write_json(RESULTS / "lifelong.json", results)
    write_text(RESULTS / "lifelong.md", table(results))
    for chain in chains:
        if chain.start != PREVIOUS and chain.share == 0.25:
            report(chain, records, work / f"report-{chain.folder.name}")
    print(table(results))


if __name__ == "__main__":
    main()
