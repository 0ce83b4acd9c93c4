"""Which way of adapting is best, for how many images?

Every method is started from the recommended source, or from `--source`, on three targets, with 25, 100 and
1,000 images and three seeds (of the draw of images and of the training), all at one budget. Scores are on the
images that the largest draw leaves for the test. Finished runs are lines of `results/methods-runs.csv`. What
has a line is not repeated, so it can be done in parts; the table names its draws. After a change of a method,
`--again` repeats its rows; a zoo of other sources repeats all.

What the zoo's StyleGAN2 sources are not for has tables of its own: `--family biggan` starts every run from
the source with classes, `--family resnet_gan` from the residual GAN, at the rates of the source's training.

Runs of another budget have files of their own, `results/methods-24kimg.md` for one.

    python benchmarks/methods.py [--kimg 3] [--source recommended] [--seeds 3] [--methods ROW ...]
    python benchmarks/methods.py --family biggan resnet_gan
"""

from __future__ import annotations

import argparse
import itertools
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from auto_rules import refresh
from clock import clocked, spent
from filelock import FileLock
from ledger import Draw, Ledger, Runs
from methods_tables import ratios, summarise, table
from transfer import (
    RESULTS,
    ROOT,
    digests,
    finished,
    forget,
    prepare,
    settings_of,
    states_of,
    train,
)

from graftgan.checkpoints.catalogue import SCRATCH
from graftgan.checkpoints.store import WEIGHTS
from graftgan.config import Params
from graftgan.context import Context, StopSignal
from graftgan.contract import digest_file, read_json, write_json, write_text
from graftgan.data.dataset import ImageSet
from graftgan.metrics.copying import copy_report
from graftgan.metrics.features import make_extractor
from graftgan.metrics.kid import kid
from graftgan.metrics.precision_recall import recall
from graftgan.metrics.scores import require_same_protocol
from graftgan.parallel import run_all
from graftgan.places import cache_home
from graftgan.stages.evaluate import Shot, shoot
from graftgan.stages.finetune import Arm
from graftgan.stages.prior import INVERSION, inversion_file, prepare_prior
from graftgan.stages.start import starting_point

TARGETS = ("micah", "adventurer", "notionists")
EXTRACTOR = "efflite0-128"
KIMG = 3.0
INVERTED_IMAGES = 20_000
VARIANTS: dict[str, tuple[str, ...]] = {
    "full": (),
    "no augmentation": ("augment=none",),
    "diffaugment": ("augment=diffaugment",),
    # What `precision: auto` takes on a processor with bfloat16 is to cost no quality.
    "fp32": ("precision=fp32",),
    "freeze_d": ("method=freeze_d",),
    "freeze_g": ("method=freeze_g",),
    "scale_shift": ("method=scale_shift",),
    "filter_transfer": ("method=filter_transfer",),
    "adafm": ("method=adafm",),
    "lora": ("method=lora",),
    "gan_memory": ("method=gan_memory",),
    "minegan": ("method=minegan",),
    "minegan, fixed G": ("method=minegan", "minegan.joint_from=null"),
    "cdc": ("method=cdc",),
    "cdc penalty": ("penalties=[cdc]",),
    "ewc": ("method=ewc",),
    "l2_sp": ("method=l2_sp",),
    "bsd": ("penalties=[bsd]",),
    "gmm": ("prior=gmm",),
    "gmm and bsd": ("prior=gmm", "penalties=[bsd]"),
    "gmm_to_normal": ("prior=gmm_to_normal",),
}
"""Name in the table -> keys of `finetune` that differ from the shipped example."""
CLASS_EMBEDDING = (
    "method=class_embedding", "class_embedding.use=repurpose", f"class_embedding.judge={EXTRACTOR}",
    "controls=[]",
)  # fmt: skip
BIGGAN: dict[str, tuple[str, ...]] = {
    "full": (),
    "freeze_d": ("method=freeze_d",),
    "scale_shift": ("method=scale_shift",),
    "bsa": ("method=bsa",),
    # What is optimised must not be what the table measures: D alone, or features at a size that takes longer.
    "class_embedding, discriminator": (
        *CLASS_EMBEDDING, "class_embedding.objective=discriminator", "class_embedding.alpha=0",
    ),
    "class_embedding, mmd": (*CLASS_EMBEDDING, "class_embedding.features=efflite0"),
    "filter_transfer": ("method=filter_transfer",),
    "adafm": ("method=adafm",),
}  # fmt: skip
"""The same for a source with classes."""
SMALL_HEAD = "filter_transfer.head=small"
RESIDUAL: dict[str, tuple[str, ...]] = {
    "full": (),
    "freeze_d": ("method=freeze_d",),
    "filter_transfer": ("method=filter_transfer",),
    "filter_transfer, small head": ("method=filter_transfer", SMALL_HEAD),
    "adafm": ("method=adafm",),
    "adafm, small head": ("method=adafm", SMALL_HEAD),
    "bsa": ("method=bsa",),
    "gan_memory": ("method=gan_memory",),
    "bsd": ("penalties=[bsd]",),
    "gmm_to_normal": ("prior=gmm_to_normal",),
    "gmm_to_normal and bsd": ("prior=gmm_to_normal", "penalties=[bsd]"),
}
"""The same for a residual GAN, the network of the papers on forgetting and on low-level filters."""


@dataclass(frozen=True)
class Family:
    """The sources that a table is of, and its rows.

    Attributes:
        catalogue: File in the zoo's folder.
        source: What `rank.choose` is, unless it is asked for otherwise.
        recipe: Keys that all rows have.
        variants: The rows.
        results: Name of the folder of runs, and of the files with the results.
    """

    catalogue: str
    source: str
    recipe: tuple[str, ...]
    variants: dict[str, tuple[str, ...]]
    results: str

    def files(self, kimg: float) -> str:
        """Return the name of the files with the results of a budget."""
        return self.results if kimg == KIMG else f"{self.results}-{kimg:g}kimg"

    def keys(self, name: str) -> list[str]:
        """Return the assignments of a row."""
        keys = (f"finetune.{key}" for key in self.variants[name])
        return [f"rank.catalogue={ROOT}/zoo/{self.catalogue}", *self.recipe, *keys]


FAMILIES = {
    "stylegan2": Family("catalogue.yaml", "recommended", (), VARIANTS, "methods"),
    "biggan": Family(
        "classes.yaml",
        "groups",
        ("finetune.lr_generator=0.0002", "finetune.lr_discriminator=0.0004", "finetune.r1_gamma=0"),
        BIGGAN,
        "methods-biggan",
    ),
    "resnet_gan": Family(
        "residual.yaml",
        "mixture-resnet",
        ("finetune.lr_generator=0.0015", "finetune.lr_discriminator=0.0015", "finetune.r1_gamma=1"),
        RESIDUAL,
        "methods-residual",
    ),
}


def draw_settings(draw: Draw, kimg: float, *more: str) -> Params:
    """Return the parameters of a run on a draw."""
    drawn = (
        f"data.train_images={draw.images}", f"data.seed={draw.seed}",
        f"finetune.inversion.epochs={max(INVERTED_IMAGES // draw.images, 1)}",
    )  # fmt: skip
    return settings_of(draw.target, draw.seed, kimg, f"evaluate.extractor={EXTRACTOR}", *drawn, *more)


def features(arm: Arm, ctx: Context) -> dict[str, Any]:
    """Return the features of samples, training images, their mirror images and test images."""
    data = ImageSet.open(arm.dataset)
    # The test images of a target and a draw are the same for every number of training images.
    held_out = f"{arm.params.data.path} {arm.params.data.seed}"
    keys = {
        arm.run: f"methods {arm.params.evaluate.samples} {digest_file(arm.folder / WEIGHTS)}",
        "train": f"{data.digest} train", "mirrored": f"{data.digest} mirrored", "test": f"{held_out} test",
    }  # fmt: skip
    return {
        name: shoot(
            Shot(name, arm.params, arm.dataset, arm.folder if name == arm.run else None, key, arm.folder), ctx
        )
        for name, key in keys.items()
    }


def stored_bytes(folder: Path) -> int:
    """Return what has to be kept of a run beside its source: an adapter, the rows of classes, or all of G."""
    model = read_json(folder / "model.json")
    rows = sum(file.stat().st_size for file in folder.glob("embedding-*.npy"))
    return int(model["adapter_bytes"] or rows or model["stored_bytes"])


def inversion_seconds(arm: Arm, ctx: Context) -> float | None:
    """Find the latents that a prior is fitted to, unless another arm did; return what that took.

    None where the cache has them from elsewhere: what they took is not known then.
    """
    if arm.params.finetune.prior == "normal" or arm.source == SCRATCH:
        return 0.0
    states = states_of(arm, ctx)
    clock = states / "inversion.seconds.json"
    data = ImageSet.open(arm.dataset)
    start = starting_point(arm.source, data, arm.params, ctx.cache)
    states.mkdir(parents=True, exist_ok=True)
    with FileLock(states / "inversion.lock"):
        if not inversion_file(start, data, arm.params, ctx.cache).is_file():
            with clocked(clock, states / INVERSION):
                prepare_prior(start, arm.run, data, arm.params, replace(ctx, state=states))
    return spent(clock)


def adapt(arm: Arm, ctx: Context) -> dict[str, Any]:
    """Adapt once and score on the test images; a finished run is not repeated."""
    record = arm.folder / "benchmark.json"
    prior = arm.params.finetune.prior != "normal"
    if not (record.is_file() and finished(arm)):
        inversion = inversion_seconds(arm, ctx)
        trained = train(arm, ctx)
        found = features(arm, ctx)
        evaluate = arm.params.evaluate
        fakes, seen, test = found[arm.run], found["train"], found["test"]
        estimate = kid(fakes, test, confidence=evaluate.confidence)
        copying = copy_report(fakes, seen, test, mirrored=found["mirrored"]).copying
        write_json(record, {
            "source": arm.source, "kid": estimate.value, "stderr": estimate.stderr,
            "recall": recall(test, fakes, k=evaluate.recall_neighbours).value,
            "copy": None if copying is None else copying.value,
            "cpu_s": None if None in (trained, inversion) else trained + inversion, "inversion_s": inversion,
            "stored_bytes": stored_bytes(arm.folder),
            "protocol": make_extractor(evaluate.extractor).protocol,
        })  # fmt: skip
    result: dict[str, Any] = read_json(record)
    # Older records do not tell whether the inversion came from the cache.
    return result | {"cpu_s": None} if prior and "inversion_s" not in result else result


def arms_of(
    draw: Draw, names: list[str], kimg: float, choose: str, work: Path, stop: StopSignal, family: Family
) -> list[Arm]:
    """Pack one draw, rank the sources for it and return its runs from the one that `rank.choose` takes."""
    folder = work / draw.target / f"{draw.images}-{draw.seed}"
    ranked = draw_settings(draw, kimg, *family.keys("full"), f"rank.choose={choose}")
    source = prepare(folder, ranked, stop)["choice"]["name"]
    runs = folder / f"{kimg:g}kimg-{source}"
    return [
        Arm(name, source, draw_settings(draw, kimg, *family.keys(name)),
            folder / "prepare" / "dataset", runs / name.replace(",", "").replace(" ", "-"))
        for name in names
    ]  # fmt: skip


def by_images(runs: Runs, family: Family) -> dict[int, dict[str, dict[Draw, dict[str, Any]]]]:
    """Return number of images -> row -> draw -> run, of the draws that `full` was run on."""
    found: dict[int, dict[str, dict[Draw, dict[str, Any]]]] = {}
    for (name, draw), run in sorted(runs.items(), key=lambda item: (item[0][1].seed, item[0][1])):
        if ("full", draw) in runs and name in family.variants:
            found.setdefault(draw.images, {}).setdefault(name, {})[draw] = run
    return dict(sorted(found.items()))


def measure(family: Family, options: argparse.Namespace, stop: StopSignal) -> dict[str, Any]:
    """Run what is missing of one table, seed after seed; its lines are written draw by draw."""
    wanted = [name for name in options.methods or family.variants if name in family.variants]
    names = ["full", *(name for name in wanted if name != "full")]
    choose = options.source or family.source
    work = options.work or ROOT / "out" / "benchmarks" / family.results
    sources = digests(ROOT / "zoo" / family.catalogue)
    ledger = Ledger(options.results / f"{family.files(options.kimg)}-runs.csv", sources, options.kimg, choose)
    runs = {key: run for key, run in ledger.read().items() if key[0] not in options.again}
    for seed, target, images in itertools.product(range(options.seeds), options.targets, options.images):
        draw = Draw(target, images, seed)
        missing = [name for name in names if (name, draw) not in runs]
        if not missing:
            continue
        arms = arms_of(draw, missing, options.kimg, choose, work, stop, family)
        ctx = Context(state=arms[0].folder.parent / "states", cache=cache_home(), stop=stop)
        for arm in arms:
            if arm.run in options.again:
                forget(arm, ctx)
        found = run_all(adapt, arms, ctx, arms[0].params.runtime.threads, options.workers)
        runs |= {(name, draw): run for name, run in zip(missing, found, strict=True)}
        ledger.write(runs)
    return tabulate(runs, ledger, family)


def tabulate(runs: Runs, ledger: Ledger, family: Family) -> dict[str, Any]:
    """Write the table of all runs, and return what it holds."""
    results = {
        "kimg": ledger.kimg, "recipe": list(family.recipe),
        "source": ledger.choose, "sources": dict(ledger.sources),
        "protocol": require_same_protocol(*(run["protocol"] for run in runs.values())),
        "images": {count: summarise(found) for count, found in by_images(runs, family).items()},
    }  # fmt: skip
    name = family.files(ledger.kimg)
    write_json(ledger.path.with_name(f"{name}.json"), results)
    write_text(ledger.path.with_name(f"{name}.md"), table(results))
    write_text(ledger.path.with_name(f"{name}-ratios.md"), ratios(results))
    return results


def main() -> None:
    """Make the table of each family that is asked for."""
    rows = list(dict.fromkeys(name for family in FAMILIES.values() for name in family.variants))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", nargs="+", choices=list(FAMILIES), default=["stylegan2"])
    parser.add_argument("--kimg", type=float, default=KIMG)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, nargs="+", default=[25, 100, 1000])
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--methods", nargs="+", choices=rows, help="rows; the default is all of the family")
    parser.add_argument("--again", nargs="+", choices=rows, default=[], help="rows to run anew")
    parser.add_argument("--source", help="rank.choose; the default is recommended, or the only source")
    parser.add_argument("--work", type=Path, help="folder of the runs of one family")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the tables")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.work and len(options.family) > 1:
        parser.error("--work is of one family: start the script once for each")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("graftgan").setLevel(logging.INFO)
    stop = StopSignal()
    stop.install()
    for name in options.family:
        print(table(measure(FAMILIES[name], options, stop)))
    if options.kimg == KIMG:
        print("\n".join(refresh()))


if __name__ == "__main__":
    main()
