"""Commands of the studies; what they need is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from graftgan.commands.base import Commands

PATH = click.Path(path_type=Path)


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
def playground_command(
    seeds: int, checkpoints_every: int | None, quick: bool, workers: int, out: Path
) -> None:
    """Re-do the two-dimensional playground: recall, outcome, and what G and D bring.

    A seed takes about two hours of one core, or some minutes with --quick.

    A study that was interrupted goes on where it was.
    """
    from graftgan.study.commands import playground

    for line in playground(seeds, checkpoints_every, quick, workers, out):
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
def transfer_command(**given: Any) -> None:
    """Adapt sources to targets from both networks, G only, D only and scratch.

    Budget and pace are `finetune.budget` and `finetune.evaluate_every_kimg`. A study that was
    interrupted goes on where it was.
    """
    from graftgan.study.commands import transfer

    for line in transfer(**given):
        click.echo(line)
