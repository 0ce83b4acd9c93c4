"""What can be known to fail before a stage runs, found out without writing anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from graftgan.config import Params
from graftgan.engine import Job
from graftgan.errors import GraftganError
from graftgan.lifelong_config import LifelongParams
from graftgan.preflight.machine import device, room, tracking, weights
from graftgan.preflight.tasks import of_list
from graftgan.preflight.transfer import class_networks, images, method, room_to_train, sources

Check = Callable[[Params], Iterator[str]]
CHECKS: dict[str, tuple[Check, ...]] = {
    "prepare": (images,),
    "rank": (device, sources, weights("rank.extractor")),
    "finetune": (
        device,
        method,
        room_to_train,
        weights("finetune.validation_extractor"),
        class_networks,
    ),
    "evaluate": (device, weights("evaluate.extractor")),
    "register": (device, weights("evaluate.extractor")),
}


def check(job: Job, failures: list[GraftganError]) -> Iterator[str]:
    """Check what a stage needs, and yield a sentence for each thing that is in order, or that fails.

    Nothing is written and nothing fetched: of what lies in an object store, and of sources by URL that were
    never fetched, only that is said.

    Args:
        job: The stage with its paths and parameters; earlier stages need not have run.
        failures: What fails is added here, so that one call finds everything.
    """
    params = job.params
    found = [room(job), tracking(job)]
    if isinstance(params, Params):
        found += [one(params) for one in CHECKS.get(job.spec.name, ())]
    if isinstance(params, LifelongParams):
        found += of_list(job.spec, params)
    for lines in found:
        try:
            yield from lines
        except GraftganError as error:
            failures.append(error)
            yield f"FAILS: {' '.join(error.message.split())}"
