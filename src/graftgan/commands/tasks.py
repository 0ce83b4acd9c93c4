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
@click.option("--init", default="random", show_default=True, help="random or warm:TASK.")
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
    for warning in learnt.warnings:
        click.echo(f"warning: {warning}", err=True)
    found = ", ".join(f"{key} {value:.4g}" for key, value in sorted(learnt.task.scores.items()))
    click.echo(f"{folder}: {name} is task {learnt.task.index}; {found}")


@contextmanager
def surroundings(folder: Path, resume: str) -> Iterator[Context]:
    """Give what training needs: a place for its state that belongs to the bank, a display, a stop signal."""
    from graftgan.context import Context, StopSignal
    from graftgan.contract import digest_text
    from graftgan.places import cache_home, home
    from graftgan.runner import display

    stop = StopSignal()
    stop.install()
    state = home() / "state" / f"bank-{digest_text(str(folder.absolute()))[:16]}"
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
    """Translate IMAGES by the task NAME."""
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
