"""What stages would do, without doing it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graftgan.engine import Job, state_key


def explain(jobs: Sequence[Job], force: bool = False) -> Iterator[str]:
    """Yield a line or more for each job: up to date, would run and why, or waits for an earlier stage.

    Raises:
        MissingInput: If an input is absent that none of the jobs would make.
    """
    made: set[str] = set()
    for job in jobs:
        waits = sorted({origin.split(".")[0] for origin in job.spec.inputs.values()} & made)
        if waits:
            yield f"{job.spec.name}: would run after {', '.join(waits)}"
            made.add(job.spec.name)
            continue
        plan = job.plan()
        if not force and job.done_before(plan):
            yield f"{job.spec.name}: up to date"
            continue
        made.add(job.spec.name)
        yield f"{job.spec.name}: would run (state {state_key(plan)})"
        for name, digest in plan.inputs.items():
            yield f"  reads  {name}: {job.inputs.get(name) or job.external()[name]} ({digest[:12]})"
        for name, path in job.outputs.items():
            yield f"  writes {name}: {path}"
