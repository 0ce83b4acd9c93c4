"""What stages would do, without doing it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from graftgan.engine import Job, state_key
from graftgan.errors import GraftganError
from graftgan.preflight import check


def explain(jobs: Sequence[Job], force: bool = False) -> Iterator[str]:
    """Yield lines for each job: up to date, would run and why, or waits for an earlier stage; and its checks.

    Nothing is written, digests that are remembered to save time included, nor fetched from a store.

    Raises:
        GraftganError: The first thing that would make a stage fail, once all were looked at.
    """
    failures: list[GraftganError] = []
    made: set[str] = set()
    for job in (replace(job, read_only=True) for job in jobs):
        try:
            lines = list(_plan(job, made, force))
        except GraftganError as error:
            failures.append(error)
            lines = [f"{job.spec.name}: cannot run: {' '.join(error.message.split())}"]
            made.add(job.spec.name)
        yield from lines
        if job.spec.name in made:
            yield from (f"  checks {line}" for line in check(job, failures))
    if failures:
        raise failures[0]


def _plan(job: Job, made: set[str], force: bool) -> Iterator[str]:
    """Yield what would be done; the stage's name is added to `made` if it would run."""
    waits = sorted({origin.split(".")[0] for origin in job.spec.inputs.values()} & made)
    if waits:
        yield f"{job.spec.name}: would run after {', '.join(waits)}"
        made.add(job.spec.name)
        return
    if stored := job.in_stores():
        # Whether they hold what an earlier run read is known only by fetching them.
        job.internal_digests()
        yield f"{job.spec.name}: would run, unless {' and '.join(stored)} did not change"
        made.add(job.spec.name)
        return
    plan = job.plan()
    if not force and job.done_before(plan):
        yield f"{job.spec.name}: up to date"
        return
    made.add(job.spec.name)
    yield f"{job.spec.name}: would run (state {state_key(plan)})"
    for name, digest in plan.inputs.items():
        yield f"  reads  {name}: {job.inputs.get(name) or job.external()[name]} ({digest[:12]})"
    for name, path in job.outputs.items():
        yield f"  writes {name}: {path}"
