"""Commands of the studies; what they need is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from graftgan.commands.base import Commands

PATH = click.Path(path_type=Path)
resume_option = click.option(
    "--resume",
    type=click.Choice(["auto", "never", "must"]),
    default="auto",
    show_default=True,
    help="auto keeps finished units, tells of those that other code made, and goes on with states of this "
    "code; never does all again; must refuses where there is nothing, or other code's units.",
)


@click.group("study", cls=Commands)
def study_group() -> None:
    """Study why a source helps and how to choose one."""


@study_group.command("playground")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1), help="Number of seeds.")
@click.option(
    "--checkpoints-every",
    type=click.IntRange(1),
    help="Generator steps between checkpoints.  [default: 50, quick: 200]",
)
@click.option(
    "--quick", is_flag=True, help="Fewer steps at a higher learning rate: minutes, not the paper's."
)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes.")
@click.option("--out", type=PATH, default="out/study/playground", show_default=True, help="Folder.")
@resume_option
def playground_command(**given: Any) -> None:
    """Re-do the two-dimensional playground: recall, outcome, and what G and D bring.

    A seed takes about two hours of one core, or some minutes with --quick.

    A study that was interrupted goes on where it was. Each finished unit names the code that made it.
    """
    from graftgan.study.commands import playground

    for line in playground(**given):
        click.echo(line)


@study_group.command("transfer")
@click.option("--params", type=PATH, default="params.yaml", show_default=True, help="Parameters file.")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override one key; repeatable."
)
@click.option("--targets", multiple=True, required=True, metavar="PATH", help="An image set; repeatable.")
@click.option(
    "--sources", multiple=True, metavar="NAME", help="A source; repeatable.  [default: rank.sources]"
)
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1), help="Training seeds.")
@click.option(
    "--arms",
    multiple=True,
    type=click.Choice(["both", "g_only", "d_only", "scratch"]),
    default=("both", "g_only", "d_only", "scratch"),
    show_default=True,
    help="What is taken from the source; repeatable.",
)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes.")
@click.option("--out", type=PATH, default="out/study/transfer", show_default=True, help="Folder.")
@resume_option
def transfer_command(params: Path, assignments: tuple[str, ...], **given: Any) -> None:
    """Adapt sources to targets from both networks, G only, D only and scratch.

    Budget and pace are `finetune.budget` and `finetune.evaluate_every_kimg`. A study that was
    interrupted goes on where it was.

    Writes transfer.html and, with the same content, transfer.parquet: a row a look at a run; what
    pandas.read_parquet gives has scorecard, choices, outcomes and ranking in its `attrs`.
    """
    from graftgan.params import load
    from graftgan.study.commands import transfer

    for line in transfer(load(params, assignments), **given):
        click.echo(line)
