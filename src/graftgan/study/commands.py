"""What the commands of the studies do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from graftgan.config import Params
from graftgan.context import Context, StopSignal
from graftgan.places import cache_home
from graftgan.runner import display
from graftgan.workers import joined, number


def playground(
    seeds: int, checkpoints_every: int | None, quick: bool, workers: int, out: Path, resume: str = "auto"
) -> Iterator[str]:
    """Run the two-dimensional playground, write its files and yield what to tell.

    Args:
        seeds: Number of seeds, from 0.
        checkpoints_every: Generator steps between checkpoints; None is the scale's own.
        quick: Use the small scale.
        workers: Processes at once.
        out: Folder of the study.
        resume: What to do about units that are done: auto, never or must.
    """
    from graftgan.study import playground_page
    from graftgan.study.playground import QUICK, Scale, run

    scale = QUICK if quick else Scale()
    if checkpoints_every is not None:
        scale = replace(scale, every=checkpoints_every)
    stop = StopSignal()
    stop.install()
    with joined("cpu"), display() as progress:
        ctx = Context(out / "states", cache_home(), progress=progress, stop=stop, resume=resume)
        found = run(out, seeds, scale, ctx, workers)
    if number() > 0:
        return
    yield playground_page.make_page(found).verdict
    for path in playground_page.write(found, out):
        yield str(path)


def transfer(
    settings: Params,
    targets: Sequence[str],
    sources: Sequence[str],
    seeds: int,
    arms: Sequence[str],
    workers: int,
    out: Path,
    resume: str = "auto",
) -> Iterator[str]:
    """Run the study of sources and arms on image sets, write its files and yield what to tell.

    Args:
        settings: All parameters.
        targets: Paths of image sets.
        sources: Names of sources; none means `rank.sources`.
        seeds: Number of training seeds, from `finetune.seed`.
        arms: What is taken from a source.
        workers: Processes at once.
        out: Folder of the study.
        resume: What to do about runs that are done or begun: auto, never or must.
    """
    from graftgan.study import transfer_page
    from graftgan.study.transfer import Plan, run

    plan = Plan(settings, tuple(targets), tuple(sources), seeds, tuple(arms), workers, out)
    stop = StopSignal()
    stop.install()
    with joined(settings.runtime.device):
        found = run(plan, stop, resume)
    if number() > 0:
        return
    yield transfer_page.make_page(found).verdict
    for path in transfer_page.write(found, out):
        yield str(path)
