"""Joins a stage to its surroundings: progress display, tracker, registry and signals."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from graftgan.context import Context, StopSignal, Tracker
from graftgan.contract import Result, read_json
from graftgan.engine import Job, run_job
from graftgan.errors import MissingInput
from graftgan.places import cache_home
from graftgan.progress import NullProgress, PlainProgress, Progress, RichProgress, describe
from graftgan.stages.specs import StageSpec
from graftgan.workers import count, number, run_together

log = logging.getLogger("graftgan")


def say(text: str) -> None:
    """Tell the person something, on standard error."""
    log.info("%s", text)


@contextmanager
def display() -> Iterator[Progress]:
    """Give live bars on a terminal, plain lines otherwise; log lines go to the same place.

    Of several workers the first shows its progress.
    """
    if number() > 0:
        yield NullProgress()
        return
    if not sys.stderr.isatty():
        yield PlainProgress()
        return
    with RichProgress() as bars:
        handlers = log.handlers[:]
        log.handlers = [bars.handler()]
        try:
            yield bars
        finally:
            log.handlers = handlers


def run_stage(job: Job, stop: StopSignal, force: bool = False, resume: str = "auto") -> tuple[Result, bool]:
    """Run one stage, tracked and displayed, unless it is up to date; with several workers the first tracks.

    Args:
        job: What to run.
        stop: The process's stop signal.
        force: Run even if nothing changed.
        resume: What to do about saved training state: auto, never or must.

    Returns:
        The result, and whether the stage ran.
    """
    from graftgan.tracker import open_tracker

    with ExitStack() as stack:
        contexts: list[Context] = []

        def surroundings(state: Path) -> Context:
            tracker = stack.enter_context(open_tracker(job.params, job.spec.name, spec=job.spec))
            ctx = Context(
                state, cache_home(), log, stack.enter_context(display()), tracker, stop=stop, resume=resume
            )
            if job.spec.name == "register":
                from graftgan.tracker import open_registry

                ctx.registry = open_registry(job.params, tracker)
            contexts.append(ctx)
            track_dataset(job.spec, job.inputs, tracker)
            return ctx

        if count() > 1:
            result, ran = run_together(job, surroundings, force, stop, resume)
        else:
            result, ran = run_job(job, surroundings, force)
        if ran and number() == 0:
            track_result(job, result, contexts[0])
    return result, ran


def track_result(job: Job, result: Result, ctx: Context) -> None:
    """Log a stage's digests, metrics, image set and what of its outputs people look at."""
    ctx.tracker.set_tags({"graftgan.config": result.config, "graftgan.code": result.code})
    ctx.tracker.log_metrics(result.metrics)
    track_dataset(job.spec, job.outputs, ctx.tracker)
    for port in job.spec.outputs:
        if port.tracked or not port.folder:
            ctx.tracker.log_artifact(job.outputs[port.name], job.spec.name, port.tracked)


def track_dataset(spec: StageSpec, paths: Mapping[str, Path], tracker: Tracker) -> None:
    """Log the image set among a stage's inputs or outputs, if there is one, as an input of its run."""
    if not spec.context or "dataset" not in paths:
        return
    try:
        facts = read_json(paths["dataset"] / "dataset.json")
        digest, source = str(facts["digest"]), str(facts["source"])
    except (MissingInput, KeyError, TypeError):
        # The stage itself refuses what it cannot read, and says more.
        return
    tracker.log_dataset(Path(source).stem, digest, source, spec.context)


def summarise(spec: StageSpec, result: Result, ran: bool) -> None:
    """Tell what a stage did, once for all workers."""
    if number() > 0:
        return
    word = "done" if ran else "up to date"
    say(f"{spec.name}: {word}  {describe(shown(result.metrics))}".rstrip())
    for warning in result.warnings:
        log.warning("%s: %s", spec.name, warning)


def shown(metrics: dict[str, float], most: int = 6) -> dict[str, float]:
    """Return the first few metrics, for one line."""
    return dict(list(metrics.items())[:most])


def finish_tracking() -> None:
    """Give the tracking follower a moment to send what is left; it warns if something waits."""
    from graftgan.follower import drain

    drain()
