"""Which way of adapting is best, for how many images?

Every method is started from the recommended source, or from `--source`, on three targets, with 25, 100 and
1,000 images and three seeds (of the draw of images and of the training), all at one budget. Scores are on the
images that the largest draw leaves for the test. Finished runs are kept in `--work`; what is there already is
not repeated, and the table names its draws; after a change of a method, remove its folders there.

    python benchmarks/methods.py [--kimg 3] [--source recommended] [--seeds 3] [--methods NAME ...]
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auto_rules import refresh
from transfer import RESULTS, ROOT, mean_interval, prepare, settings_of, train

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

TARGETS = ("micah", "adventurer", "notionists")
EXTRACTOR = "efflite0-128"
INVERTED_IMAGES = 20_000
VARIANTS: dict[str, tuple[str, ...]] = {
    "full": (),
    "no augmentation": ("augment=none",),
    "diffaugment": ("augment=diffaugment",),
    "freeze_d": ("method=freeze_d",),
    "freeze_g": ("method=freeze_g",),
    "scale_shift": ("method=scale_shift",),
    "filter_transfer": ("method=filter_transfer",),
    "adafm": ("method=adafm",),
    "lora": ("method=lora",),
    "gan_memory": ("method=gan_memory",),
    "minegan": ("method=minegan",),
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


@dataclass(frozen=True)
class Draw:
    """One small image set: a target, how many training images, and the seed that drew them."""

    target: str
    images: int
    seed: int

    def settings(self, kimg: float, *more: str) -> Params:
        """Return the parameters of a run on it."""
        drawn = (
            f"data.train_images={self.images}", f"data.seed={self.seed}",
            f"finetune.inversion.epochs={max(INVERTED_IMAGES // self.images, 1)}",
        )  # fmt: skip
        return settings_of(self.target, self.seed, kimg, f"evaluate.extractor={EXTRACTOR}", *drawn, *more)


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


def adapt(arm: Arm, ctx: Context) -> dict[str, Any]:
    """Adapt once and score on the test images; a finished run is not repeated."""
    record = arm.folder / "benchmark.json"
    before = time.process_time()
    train(arm, ctx)
    seconds = time.process_time() - before
    if not record.is_file():
        found = features(arm, ctx)
        evaluate = arm.params.evaluate
        fakes, seen, test = found[arm.run], found["train"], found["test"]
        estimate = kid(fakes, test, confidence=evaluate.confidence)
        copying = copy_report(fakes, seen, test, mirrored=found["mirrored"]).copying
        model = read_json(arm.folder / "model.json")
        write_json(record, {
            "source": arm.source, "kid": estimate.value, "stderr": estimate.stderr,
            "recall": recall(test, fakes, k=evaluate.recall_neighbours).value,
            "copy": None if copying is None else copying.value, "cpu_s": seconds,
            "stored_bytes": model["adapter_bytes"] or model["stored_bytes"],
            "protocol": make_extractor(evaluate.extractor).protocol,
        })  # fmt: skip
    result: dict[str, Any] = read_json(record)
    return result


def arms_of(
    draw: Draw, names: list[str], kimg: float, choose: str, work: Path, stop: StopSignal
) -> list[Arm]:
    """Pack one draw, rank the sources for it and return its runs from the one that `rank.choose` takes."""
    folder = work / draw.target / f"{draw.images}-{draw.seed}"
    source = prepare(folder, draw.settings(kimg, f"rank.choose={choose}"), stop)["choice"]["name"]
    runs = folder / f"{kimg:g}kimg-{source}"
    return [
        Arm(name, source, draw.settings(kimg, *(f"finetune.{key}" for key in VARIANTS[name])),
            folder / "prepare" / "dataset", runs / name.replace(" ", "-"))
        for name in names
    ]  # fmt: skip


def table(results: dict[str, Any]) -> str:
    """Return a Markdown table for each number of images, best method first."""
    lines = [
        f"After {results['kimg']:g} kimg from source {results['source']}. Test KID is of "
        f"`{results['protocol']}`, lower is better; its interval is at 95 %, of the images where there is "
        "one draw, else Student's over draws. KID / full is of pairs on the same draw, and tells methods "
        "apart where targets differ. Copy score: 0.5 is honest, 1 copies everything, near 0 is far "
        "from all images. Seconds are of one CPU core."
    ]
    for images, rows in results["images"].items():
        title = f"### {images} images: {', '.join(rows[0]['draws'])}"
        head = (
            "| method | test KID | interval | KID / full | interval | recall | copy | seconds | stored KB |"
        )
        lines += ["", title, "", head, "| --- |" + " --- |" * 8]
        for row in rows:
            lines.append(
                f"| {row['method']} | {row['kid']:.3f} | {row['low']:.3f} to {row['high']:.3f} "
                f"| {row['ratio']:.2f} | {row['ratio_low']:.2f} to {row['ratio_high']:.2f} "
                f"| {row['recall']:.3f} | {row['copy']:.2f} | {row['cpu_s']:.0f} "
                f"| {row['stored_bytes'] / 1000:.0f} |"
            )
    return "\n".join(lines) + "\n"


def ratio_interval(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> tuple[float, float, float]:
    """Return the geometric mean of KID / KID of `full` on the same draws, with its 95 % interval.

    Draws of unlike targets differ in KID by more than methods do, and only pairs can be compared over them.
    """
    logs = [math.log(run["kid"] / full["kid"]) for run, full in pairs]
    errors = [math.hypot(run["stderr"] / run["kid"], full["stderr"] / full["kid"]) for run, full in pairs]
    ends = mean_interval([{"kid": log, "stderr": error} for log, error in zip(logs, errors, strict=True)])
    mean, low, high = (math.exp(end) for end in ends)
    return mean, low, high


def summarise(runs: dict[str, dict[Draw, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return one row a method, over the draws that it and `full` were run on."""
    rows = []
    for name, found in runs.items():
        kid_mean, low, high = mean_interval(list(found.values()))
        means = {
            key: statistics.fmean(run[key] for run in found.values())
            for key in ("recall", "copy", "cpu_s", "stored_bytes")
        }
        ratio, ratio_low, ratio_high = ratio_interval(
            [(run, runs["full"][draw]) for draw, run in found.items()]
        )
        draws = [f"{draw.target} {draw.seed}" for draw in found]
        rows.append(
            {
                "method": name,
                "draws": draws,
                "kid": kid_mean,
                "low": low,
                "high": high,
                "ratio": ratio,
                "ratio_low": ratio_low,
                "ratio_high": ratio_high,
                **means,
            }
        )
    return sorted(rows, key=lambda row: row["ratio"])


def main() -> None:
    """Run everything, seed after seed, and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kimg", type=float, default=3.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, nargs="+", default=[25, 100, 1000])
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--methods", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--source", default="recommended")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "benchmarks" / "methods")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    names = ["full", *(name for name in options.methods if name != "full")]
    logging.basicConfig(format="%(message)s")
    logging.getLogger("graftgan").setLevel(logging.INFO)
    stop = StopSignal()
    stop.install()
    found: dict[int, dict[str, dict[Draw, dict[str, Any]]]] = {
        images: {name: {} for name in names} for images in options.images
    }
    for seed, target, images in itertools.product(range(options.seeds), options.targets, options.images):
        draw = Draw(target, images, seed)
        arms = arms_of(draw, names, options.kimg, options.source, options.work, stop)
        ctx = Context(state=arms[0].folder.parent / "states", cache=cache_home(), stop=stop)
        runs = run_all(adapt, arms, ctx, arms[0].params.runtime.threads, options.workers)
        for name, run in zip(names, runs, strict=True):
            found[images][name][draw] = run
        done = {count: by_name for count, by_name in found.items() if by_name["full"]}
        every = (run for by_name in done.values() for by_draw in by_name.values() for run in by_draw.values())
        results = {
            "kimg": options.kimg, "source": options.source,
            "protocol": require_same_protocol(*(run["protocol"] for run in every)),
            "images": {count: summarise(by_name) for count, by_name in done.items()},
        }  # fmt: skip
        write_json(RESULTS / "methods.json", results)
        write_text(RESULTS / "methods.md", table(results))
    print(table(results))
    print("\n".join(refresh()))


if __name__ == "__main__":
    main()
