"""What the tuning of class embeddings does to the shipped source with classes, before and after.

The collapsed class is repaired, the biased one de-biased, and the source is re-purposed for a set it never
saw; nothing but one row of the class table moves. A second repair is of what the source can draw, but its
vector does not show: a class gets the vector of the collapsed one, and the same class untouched stands beside
it. Each use is run by every objective, and repair and debias without the diversity term and with it at the
weight that the presets have for their use. The judge sees test images alone, by another feature network than
the one that is optimised. The classifier is trained here on half of the images of each set; another one,
trained on the other half, says which share of samples shows the class. Finished runs are kept in `--work`.

    python benchmarks/classes.py [--kimg 1.5] [--judge efflite0] [--uses repair restore debias]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from classifiers import make_pair
from transfer import RESULTS, ROOT, digests, train

from graftgan.checkpoints.store import WEIGHTS, load_gan, save_gan
from graftgan.config import Params
from graftgan.context import Context, StopSignal
from graftgan.contract import digest_file, read_json, write_json, write_text
from graftgan.engine import Job, default_paths
from graftgan.gans.class_table import class_table, write_row
from graftgan.metrics.scores import require_same_protocol
from graftgan.params import load
from graftgan.places import cache_home
from graftgan.runner import run_stage
from graftgan.stages.finetune import Arm
from graftgan.stages.specs import stage
from graftgan.transfer.class_settings import USES as PRESETS

SOURCE, SPOILT = "groups", "spoilt"
COLLAPSED = 3
KEY = "finetune.class_embedding"
SETS = ("toon-head", "open-peeps", "big-smile", "personas", "lorelei", "shapes", "micah")
"""What the classifiers tell apart: the source's classes in their order, and the new one."""
OBJECTIVES = ("mmd", "probe", "classifier", "discriminator", "inversion", "realism")


@dataclass(frozen=True)
class Demonstration:
    """What is done to which class.

    Attributes:
        use: As in `finetune.class_embedding.use`.
        data: Name of the set of images.
        title: What the class is, for the table.
        row: Its row in the source's table; None for a new one.
        source: Name of the source.
        objectives: Those that are tried.
    """

    use: str
    data: str
    title: str
    row: int | None = None
    source: str = SOURCE
    objectives: tuple[str, ...] = OBJECTIVES


USES = {
    "repair": Demonstration("repair", "personas", "the collapsed class", COLLAPSED),
    "restore": Demonstration("repair", "lorelei", "a class with the collapsed one's vector", 4, SPOILT),
    "untouched": Demonstration("repair", "lorelei", "that class as it was", 4, objectives=OBJECTIVES[:1]),
    "debias": Demonstration("debias", "big-smile", "the biased class", 2),
    "repurpose": Demonstration("repurpose", "micah", "a new class", objectives=OBJECTIVES[:-1]),
}
SIDE_PX = 32
COLUMNS = {
    "kid": "test KID",
    "per_latent": "variety per latent distance",
    "real_share": "variety / that of test images",
    "accuracy": "taken for the class",
}


@dataclass(frozen=True)
class Variant:
    """One run; `alpha` is the weight of the diversity term, and null that of the preset."""

    use: str
    objective: str
    alpha: float | None = None

    @property
    def name(self) -> str:
        """Its name among files and results."""
        return f"{self.use}-{self.objective}" + ("" if self.alpha is None else f"-{self.alpha:g}")

    def settings(self, catalogue: Path, kimg: float, judge: str, optimised: str, judging: str) -> Params:
        """Return its parameters.

        Args:
            catalogue: Where the sources are.
            kimg: Budget.
            judge: Feature extractor of the report.
            optimised: Classifier of the objective of that name.
            judging: Classifier of the report.
        """
        shown = USES[self.use]
        more = [] if shown.row is None else [f"{KEY}.classes=[{shown.row}]"]
        if self.objective == "classifier":
            more.append(f"{KEY}.classifier={optimised}")
        wanted = {
            "data.path": f"{ROOT}/data/{shown.data}.parquet", "rank.catalogue": catalogue,
            "rank.sources": "null", "rank.choose": shown.source, "track.mode": "off",
            "finetune.method": "class_embedding", "finetune.controls": "[]",
            "finetune.budget": f"{{kimg: {kimg}}}", "finetune.evaluate_every_kimg": kimg,
            f"{KEY}.use": shown.use, f"{KEY}.objective": self.objective, f"{KEY}.judge": judge,
            f"{KEY}.alpha": "null" if self.alpha is None else self.alpha,
            f"{KEY}.judge_classifier": judging, f"{KEY}.classifier_classes": [SETS.index(shown.data)],
        }  # fmt: skip
        return load(ROOT / "params.yaml", [*(f"{key}={value}" for key, value in wanted.items()), *more])


def variants(name: str) -> list[Variant]:
    """Return the runs of a demonstration."""
    found, shown = [], USES[name]
    for objective in shown.objectives:
        # Inversion has no such term, and realism nothing but that.
        both = shown.row is not None and objective not in ("inversion", "realism")
        alphas = (0.0, PRESETS[shown.use].alpha) if both else (None,)
        found += [Variant(name, objective, alpha) for alpha in alphas]
    return found


def spoil(folder: Path) -> Path:
    """Write the source with the collapsed class's vector in another's place; return a catalogue of both."""
    (entry,) = yaml.safe_load((ROOT / "zoo" / "classes.yaml").read_text("utf-8"))
    gan = load_gan(ROOT / "zoo" / SOURCE)
    row = USES["restore"].row
    assert row is not None
    for generator in (gan.generator, gan.generator_ema):
        write_row(generator, row, class_table(generator)[COLLAPSED])
    (folder / SPOILT).mkdir(parents=True, exist_ok=True)
    save_gan(gan, folder / SPOILT)
    own = {"name": SPOILT, "path": SPOILT, "sha256": digest_file(folder / SPOILT / WEIGHTS)}
    entries = [entry | {"path": str(ROOT / "zoo" / entry["path"])}, entry | own]
    write_text(folder / "catalogue.yaml", yaml.safe_dump(entries))
    return folder / "catalogue.yaml"


def tune(variant: Variant, params: Params, folder: Path, dataset: Path, ctx: Context) -> dict[str, Any]:
    """Run one variant and return the facts of its class; a finished run is not repeated."""
    arm = Arm(variant.name, USES[variant.use].source, params, dataset, folder / variant.name)
    record = arm.folder / "benchmark.json"
    seconds = train(arm, ctx)
    if not record.is_file():
        report = read_json(arm.folder / "model.json")["class_embedding"]
        (facts,) = report["classes"]
        kept = {key: report[key] for key in ("objective", "alpha", "protocol", "judge_was_optimised")}
        write_json(record, {**kept, **facts, "use": variant.use, "cpu_s": seconds})
    result: dict[str, Any] = read_json(record)
    return result


def table(results: dict[str, Any]) -> str:
    """Return the Markdown table."""
    runs = list(results["runs"].values())
    *counts, last = map(str, sorted({run["judge_images"] for run in runs}))
    tests = f"{', '.join(counts)} or {last}" if counts else last
    lines = [
        f"One row of 64 numbers is tuned for {results['kimg']:g} kimg on 100 images and judged on {tests} "
        f"{' or '.join(sorted({run['judged_on'] for run in runs}))} images by `{results['protocol']}`; "
        "before → after. The classifier that is optimised is right for "
        f"{results['classifiers']['optimised']:.1%} of images that it has not seen, and the one that tells "
        f"which share of samples is taken for the class for {results['classifiers']['judge']:.1%}.",
        "",
        f"| use | objective | alpha | {' | '.join(COLUMNS.values())} | CPU s |",
        "|" + " --- |" * (4 + len(COLUMNS)),
    ]
    for run in runs:
        shown = USES[run["use"]]
        use = f"`{shown.use}`: {shown.title}, {shown.data}"
        cells = [_change(run, key) for key in COLUMNS]
        # Of a run that was killed on the way, the seconds are not known.
        seconds = "–" if run["cpu_s"] is None else f"{run['cpu_s']:.0f}"
        cells = [use, f"`{run['objective']}`", f"{run['alpha']:g}", *cells, seconds]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _change(run: dict[str, Any], key: str) -> str:
    # With few real images there is KID alone.
    before, after = run["before"].get(key), run["after"].get(key)
    return "–" if before is None or after is None else f"{before:.2f} → {after:.2f}"


def main() -> None:
    """Run the variants and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kimg", type=float, default=1.5)
    parser.add_argument("--judge", default="efflite0", help="feature extractor of the report")
    parser.add_argument("--uses", nargs="+", choices=USES, default=list(USES))
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder for classes.json and classes.md"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "benchmarks" / "classes")
    options = parser.parse_args()
    stop = StopSignal()
    stop.install()
    files = [ROOT / "data" / f"{name}.parquet" for name in SETS]
    catalogue = spoil(options.work)
    pair = make_pair(files, SIDE_PX, options.work / "classifiers")
    results: dict[str, Any] = {
        "classifiers": {name: made["accuracy"] for name, made in pair.items()},
        "kimg": options.kimg,
        "sources": digests(ROOT / "zoo" / "classes.yaml"),
        "runs": {},
    }
    folder = options.work / f"{options.kimg:g}kimg-{options.judge.replace('/', '_')}"
    ctx = Context(state=folder / "states", cache=cache_home(), stop=stop)
    for use in options.uses:
        for variant in variants(use):
            if variant.objective not in options.objectives:
                continue
            networks = (str(pair[name]["extractor"]) for name in ("optimised", "judge"))
            params = variant.settings(catalogue, options.kimg, options.judge, *networks)
            paths = default_paths(stage("prepare"), options.work / use)
            run_stage(Job(stage("prepare"), params, *paths), stop)
            results["runs"][variant.name] = tune(variant, params, folder, paths[1]["dataset"], ctx)
            protocols = (run["protocol"] for run in results["runs"].values())
            results["protocol"] = require_same_protocol(*protocols)
            write_json(options.results / "classes.json", results)
            write_text(options.results / "classes.md", table(results))
    print(table(results))


if __name__ == "__main__":
    main()
