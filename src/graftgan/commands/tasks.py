"""`graftgan tasks`: the commands on a bank of image-to-image tasks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graftgan.commands.base import Commands
from graftgan.errors import CheckpointError

if TYPE_CHECKING:
    from graftgan.context import Context

bank_option = click.option(
    "--bank",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("bank"),
    show_default=True,
    help="Folder of the bank.",
)


@click.group("tasks", cls=Commands)
def tasks_group() -> None:
    """Image-to-image tasks that share filters in a bank."""


def open_bank(folder: Path) -> Any:
    """Open a bank; a writer's unfinished work is taken back."""
    from graftgan.bank.store import Bank

    return Bank(folder)


@tasks_group.command("list")
@bank_option
def tasks_list(folder: Path) -> None:
    """List the tasks, what each adds to the bank, and its scores."""
    from graftgan.bank.accounting import costs

    bank = open_bank(folder)
    spec, manifest = bank.spec, bank.manifest
    click.echo(f"{spec.kind}, ngf {spec.ngf}, {spec.norm} norm, lambda {manifest.share}")
    click.echo(f"{'task':24} {'added':>12} {'of one':>7} {'bank':>7}  {'start':16} scores")
    for task, cost in zip(bank.tasks, costs(bank), strict=True):
        scores = ", ".join(f"{name} {value:.4g}" for name, value in sorted(task.scores.items()))
        ratios = f"{cost.ratio:7.1%} {cost.cumulative_ratio:7.3f}"
        click.echo(f"{task.name:24} {cost.added:12,} {ratios}  {task.init:16} {scores}".rstrip())


@tasks_group.command("add")
@click.argument("name")
@bank_option
@click.option("--data", required=True, type=click.Path(path_type=Path), help="YAML of the task's images.")
@click.option("--train", type=click.Path(path_type=Path), help="YAML of the recipe; without it, pix2pix's.")
@click.option("--scores", type=click.Path(path_type=Path), help="YAML of the scores.")
@click.option("--lambda", "share", help="Share of new filters of a new bank: a number, or YAML.  [0.25]")
@click.option(
    "--init",
    default="random",
    show_default=True,
    help="random, warm:TASK, or auto for what `tasks rank` finds.",
)
@click.option("--generator", "kind", help="Generator of a new bank.  [resnet_9]")
@click.option("--ngf", type=click.IntRange(1), help="Its feature maps in the first layer.  [64]")
@click.option("--norm", type=click.Choice(["instance", "batch"]), help="Its norm.  [instance]")
@click.option("--dropout", type=bool, help="Whether it drops feature maps while it trains.  [false]")
@click.option(
    "--back", type=click.Path(path_type=Path), help="Bank of unpaired tasks' ways back.  [BANK-back]"
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--resume", type=click.Choice(["auto", "never", "must"]), default="auto", show_default=True)
def tasks_add(name: str, folder: Path, back: Path | None, **given: Any) -> None:
    """Learn the task NAME from images and add it; the first one makes the bank.

    Stopped by a signal, the same command goes on where it was.
    """
    from graftgan.bank.adding import Wanted, open_or_create
    from graftgan.config import Runtime
    from graftgan.data.pairs import load_task
    from graftgan.lifelong_config import TaskData, Translate, TranslationScores
    from graftgan.lifelong_params import load_section
    from graftgan.stages.lifelong import Settings, learn_task

    images = load_task(load_section(given["data"], TaskData))
    train = load_section(given["train"], Translate) if given["train"] else Translate()
    scores = load_section(given["scores"], TranslationScores) if given["scores"] else TranslationScores()
    settings = Settings(train, scores, Runtime(device=given["device"]), given["init"])
    wanted = Wanted(given["share"], given["kind"], given["ngf"], given["norm"], given["dropout"])
    bank, ways_back = open_or_create(folder, wanted), None
    if images.data.kind == "unpaired":
        ways_back = open_or_create(back or folder.with_name(f"{folder.name}-back"), wanted)
    with surroundings(folder, given["resume"]) as ctx:
        learnt = learn_task(bank, name, images, settings, ctx, ways_back)
    if learnt.ranking is not None:
        click.echo(learnt.ranking.why)
    for warning in learnt.warnings:
        click.echo(f"warning: {warning}", err=True)
    found = ", ".join(f"{key} {value:.4g}" for key, value in sorted(learnt.task.scores.items()))
    click.echo(f"{folder}: {name} is task {learnt.task.index}; {found}")


@tasks_group.command("rank")
@click.argument("name")
@bank_option
@click.option("--data", required=True, type=click.Path(path_type=Path), help="YAML of the task's images.")
@click.option("--train", type=click.Path(path_type=Path), help="YAML of the recipe; without it, pix2pix's.")
@click.option("--scores", type=click.Path(path_type=Path), help="YAML of the scores.")
@click.option(
    "--back", type=click.Path(path_type=Path), help="Bank of unpaired tasks' ways back.  [BANK-back]"
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--probe-steps",
    default=40,
    show_default=True,
    type=click.IntRange(0),
    help="Training steps from each start; 0 only compares outputs.",
)
@click.option("--images", default=256, show_default=True, type=click.IntRange(10), help="Images looked at.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def tasks_rank(name: str, folder: Path, back: Path | None, **given: Any) -> None:
    """Rank the tasks of a bank as starts for a new task NAME; the bank stays as it is.

    Outputs of every task for the new inputs are compared with the new targets, and a few training steps from
    each start, and from a random one, are scored on held-out images.
    """
    from graftgan.bank.store import Bank
    from graftgan.config import Runtime
    from graftgan.contract import canonical_json
    from graftgan.data.pairs import load_task
    from graftgan.lifelong_config import TaskData, Translate, TranslationScores
    from graftgan.lifelong_params import load_section
    from graftgan.stages.lifelong import Settings, rank_inits
    from graftgan.stages.warm_starts import Looking

    bank = open_bank(folder)
    images = load_task(load_section(given["data"], TaskData))
    train = load_section(given["train"], Translate) if given["train"] else Translate()
    scores = load_section(given["scores"], TranslationScores) if given["scores"] else TranslationScores()
    settings = Settings(train, scores, Runtime(device=given["device"]))
    looking = Looking(given["images"], given["probe_steps"])
    ways_back = None
    if images.data.kind == "unpaired":
        ways_back = Bank(back or folder.with_name(f"{folder.name}-back"))
    with surroundings(folder, "auto") as ctx:
        ranking = rank_inits(bank, name, images, settings, ways_back, looking, ctx.progress)
    if given["as_json"]:
        click.echo(canonical_json(ranking.to_dict()))
        return
    for line in start_lines(ranking):
        click.echo(line)


def start_lines(ranking: Any) -> list[str]:
    """Return a ranking as a table and the sentence on its choice."""
    names = list(dict.fromkeys(name for start in ranking.starts for name in start.scores))
    probe = ["start", f"{ranking.steps} steps"] if ranking.steps else []
    widths = [max(9, len(name) + 1) for name in (*probe, *names)]
    heads = "".join(f"{name:>{width}}" for name, width in zip((*probe, *names), widths, strict=True))
    lines = [f"  {'init':28}{heads}"]
    for start in ranking.starts:
        found = [start.probe.before, start.probe.after] if start.probe else []
        cells = [f"{estimate.value:.4g}" for estimate in found]
        cells += [f"{start.scores[name].value:.4g}" if name in start.scores else "" for name in names]
        row = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        lines.append(f"{'*' if start.init in ranking.tied else ' '} {start.init:28}{row}".rstrip())
    return [*lines, "* not clearly worse than the best", ranking.why]


@contextmanager
def surroundings(folder: Path, resume: str) -> Iterator[Context]:
    """Give what training needs: a place for its state that belongs to the bank, a display, a stop signal."""
    from graftgan.context import Context, StopSignal
    from graftgan.contract import digest_text
    from graftgan.places import cache_home, home
    from graftgan.runner import display

    stop = StopSignal()
    stop.install()
    state = home() / "state" / f"bank-{digest_text(str(folder.resolve()))[:16]}"
    with display() as progress:
        yield Context(state, cache_home(), progress=progress, stop=stop, resume=resume)


@tasks_group.command("verify")
@bank_option
def tasks_verify(folder: Path) -> None:
    """Prove that no byte of any task has changed and that each makes the images it made when finished."""
    from graftgan.bank.tasks import verify

    bank = open_bank(folder)
    if findings := verify(bank):
        raise CheckpointError(
            "\n  ".join([f"{folder} is damaged", *map(str, findings)]),
            "bring the files back from a copy of the bank",
        )
    click.echo(f"{folder}: whole; {len(bank.tasks)} tasks make the same images as when they were finished")


@tasks_group.command("report")
@bank_option
@click.option(
    "--from",
    "results",
    type=click.Path(path_type=Path),
    help="Folder with scores, pictures and proofs of the pipeline, such as out/lifelong.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="HTML file to write.")
@click.option("--title", default="Task bank", show_default=True, help="Heading of the report.")
def tasks_report(folder: Path, results: Path | None, out: Path, title: str) -> None:
    """Write a report of the bank as one HTML file; all digests and outputs are checked for it."""
    from graftgan.bank.tasks import verify
    from graftgan.contract import write_text
    from graftgan.reporting.bank_facts import Results, read_facts
    from graftgan.reporting.bank_page import render

    bank = open_bank(folder)
    facts = read_facts(bank, Results.below(results) if results else None, tuple(map(str, verify(bank))))
    write_text(out, render(facts, title))
    click.echo(f"{out}: {len(facts.tasks)} tasks, {out.stat().st_size / 1e6:.1f} MB")


@tasks_group.command("run")
@click.argument("name")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@bank_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("translated"),
    show_default=True,
    help="Folder of the PNGs.",
)
@click.option("--size-px", default=0, type=click.IntRange(0), help="Side of the images; 0: the task's own.")
def tasks_run(name: str, images: tuple[Path, ...], folder: Path, out: Path, size_px: int) -> None:
    """Translate IMAGES by the task NAME, over the background that the task was learnt with."""
    from graftgan.bank.using import translate_files

    for path in translate_files(open_bank(folder), name, images, out, size_px):
        click.echo(path)


@tasks_group.command("export")
@click.argument("name")
@bank_option
@click.option("--format", "kind", default="cyclegan", show_default=True, help="cyclegan or onnx.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write.")
def tasks_export(name: str, folder: Path, kind: str, out: Path) -> None:
    """Write the task NAME as a network of its own, which needs no bank."""
    from graftgan.bank.using import export_task

    export_task(open_bank(folder), name, kind, out)
    click.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


@tasks_group.command("remove")
@click.argument("name")
@bank_option
def tasks_remove(name: str, folder: Path) -> None:
    """Take the task NAME out of the bank; only the last one can go, as later ones build on the others."""
    open_bank(folder).remove(name)
    click.echo(f"{folder}: {name} is removed")
