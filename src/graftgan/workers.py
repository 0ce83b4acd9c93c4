"""Several processes as one run: under torchrun, or wherever RANK, WORLD_SIZE and MASTER_ADDR are set.

Lightning Fabric opens the connection, picks each worker's device and moves tensors. Nothing heavy is imported
before a run is known to have several workers.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftgan import errors
from graftgan.context import Context, StopSignal
from graftgan.contract import Result
from graftgan.engine import Job, run_job
from graftgan.errors import ConfigError, Ending, GraftganError, Interrupted, TryAgain
from graftgan.places import cache_home

if TYPE_CHECKING:
    from graftgan.world import World

TOGETHER = ("rank", "finetune", "evaluate")
"""Stages that all workers do together; the first does the others, and all wait for it."""
FAILURE = "graftgan/failure"
LONGEST_WAIT = timedelta(hours=12)
CAUSE_WITHIN_S = 5.0
STARTED = "started"
log = logging.getLogger("graftgan")


def count() -> int:
    """Return the number of workers that the environment tells of, 1 without any word.

    Raises:
        ConfigError: WORLD_SIZE is not a number.
    """
    return _number("WORLD_SIZE", 1)


def number() -> int:
    """Return the number of this worker, 0 without any word."""
    return _number("RANK", 0) if count() > 1 else 0


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip() or str(default)
    if not text.isdigit():
        raise ConfigError(f"the environment's {name} is {text!r}", "start the workers with torchrun")
    return int(text)


def refuse_several(what: str) -> None:
    """Refuse to be one of several workers in what is done by one process.

    Raises:
        ConfigError: Naming the variable that tells of others.
    """
    if count() > 1:
        raise ConfigError(
            f"{what} is done by one process, but WORLD_SIZE is {count()}", "start it without torchrun"
        )


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Be one of the workers during the block; nothing happens where there is one.

    Whatever ends one worker ends all: each raises the first one's failure.

    Args:
        device: `runtime.device`.

    Raises:
        ConfigError: Lightning Fabric is not installed, or the devices do not suffice.
        GraftganError: Another worker failed; its own class and message.
        TryAgain: Another worker ended without a word.
    """
    if count() == 1:
        yield
        return
    from graftgan.world import belonging, meet

    if number() > 0:
        log.setLevel(logging.ERROR)
    here = _open(device)
    try:
        with belonging(here):
            yield
            meet()
    except BaseException as error:
        cause = _first_failure(error, here.rank)
        if cause is None:
            raise
        raise cause from error
    _close()


def _open(device: str) -> World:
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
        from lightning_fabric.strategies.ddp import DDPStrategy
    except ImportError as error:
        raise ConfigError(
            f"{count()} workers need Lightning Fabric: {error}", "pip install 'graftgan[workers]'"
        ) from None
    import torch.distributed as dist

    from graftgan.world import World

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    beside = _number("LOCAL_WORLD_SIZE", 1)
    os.environ.setdefault("LOCAL_RANK", "0")
    kind = _kind(device, beside)
    backend = "nccl" if kind == "cuda" else "gloo"
    fabric = Fabric(
        accelerator=kind,
        devices=beside,
        num_nodes=count() // beside,
        strategy=DDPStrategy(process_group_backend=backend, timeout=LONGEST_WAIT),
        plugins=[TorchElasticEnvironment()],
    )
    fabric.launch()
    # Words between workers must not wait for the GPU.
    control = dist.new_group(backend="gloo", timeout=LONGEST_WAIT) if backend == "nccl" else None
    return World(fabric.global_rank, fabric.world_size, fabric, control)


def _kind(device: str, beside: int) -> str:
    """Return cpu or cuda for `runtime.device`; each worker of a machine takes a GPU of its own."""
    import torch

    from graftgan.device import pick_device

    if ":" in device:
        raise ConfigError(
            f"runtime.device={device} names one GPU, but WORLD_SIZE is {count()}", "set runtime.device=cuda"
        )
    kind = pick_device(device).type
    found = torch.cuda.device_count() if kind == "cuda" else beside
    if found < beside:
        raise ConfigError(
            f"runtime.device={device}: {beside} workers on this machine share {found} GPUs",
            "start as many workers as there are GPUs (torchrun --nproc-per-node), or set runtime.device=cpu",
        )
    return kind


def _close() -> None:
    import torch.distributed as dist

    dist.destroy_process_group()


def _first_failure(error: BaseException, rank: int) -> Ending | None:
    """Tell the others why this worker ends; return the reason if it is another worker's."""
    import torch.distributed as dist

    broken = _is_broken_line(error)
    try:
        store = dist.distributed_c10d._get_default_store()
        if broken:
            known = _wait_for(store)
        else:
            known = json.loads(store.compare_set(FAILURE, "", json.dumps(_words(error, rank))))
    except (RuntimeError, ValueError):
        known = None
    if known is None:
        return _silence(rank) if broken else None
    # A signal may be no more than the launcher's answer to the failure of another.
    follows = isinstance(error, Interrupted) and known["kind"] != "Interrupted"
    if known["rank"] == rank or not (broken or follows):
        _linger(rank)
        return None
    kind = getattr(errors, known["kind"], GraftganError)
    made: Ending = kind(f"worker {known['rank']}: {known['message']}", known["remedy"])
    return made


def _is_broken_line(error: BaseException) -> bool:
    import torch.distributed as dist

    # Gloo raises plain RuntimeErrors; each names the place in its own sources.
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _words(error: BaseException, rank: int) -> dict[str, Any]:
    if isinstance(error, Ending):
        return {"rank": rank, "kind": type(error).__name__, "message": error.message, "remedy": error.remedy}
    kind = "Interrupted" if isinstance(error, KeyboardInterrupt) else "GraftganError"
    message = f"unexpected {type(error).__name__}: {error}"
    return {"rank": rank, "kind": kind, "message": message, "remedy": "look at that worker's log"}


def _wait_for(store: Any) -> dict[str, Any] | None:
    deadline = time.monotonic() + CAUSE_WITHIN_S
    while time.monotonic() < deadline:
        if store.check([FAILURE]):
            found: dict[str, Any] = json.loads(store.get(FAILURE))
            return found
        time.sleep(0.05)
    return None


def _silence(rank: int) -> GraftganError:
    return TryAgain(
        f"worker {rank}: another worker ended without a word; it may have been killed for memory",
        "run the same command to go on from the last saved state",
    )


def _linger(rank: int) -> None:
    """Let the others read the reason where this process keeps the store; torchrun keeps it itself."""
    if rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        time.sleep(CAUSE_WITHIN_S)


def run_together(
    job: Job, make_context: Callable[[Path], Context], force: bool, stop: StopSignal, resume: str
) -> tuple[Result, bool]:
    """Run a stage as `graftgan.engine.run_job` does, with all workers.

    The first worker decides whether it runs, has the locks, the outputs and the tracker. The others work in a
    folder that is thrown away.

    Returns:
        The first worker's result, and whether the stage ran.
    """
    from graftgan.world import from_first, is_first

    if not is_first():
        word = from_first(str)
        if word == STARTED and job.spec.name in TOGETHER:
            _help(job, stop, resume)
        return from_first(lambda: (job.plan(), False))

    def start(state: Path) -> Context:
        from_first(lambda: STARTED)
        return make_context(state)

    result, ran = run_job(job, start, force)
    if not ran:
        from_first(str)
    return from_first(lambda: (result, ran))


def _help(job: Job, stop: StopSignal, resume: str) -> None:
    from graftgan.progress import NullProgress

    with tempfile.TemporaryDirectory(prefix="graftgan-") as folder:
        outputs = {port.name: Path(folder) / port.file_name for port in job.spec.outputs}
        for port in job.spec.outputs:
            if port.folder:
                outputs[port.name].mkdir()
        ctx = Context(Path(folder) / "state", cache_home(), log, NullProgress(), stop=stop, resume=resume)
        importlib.import_module(job.spec.entry).run(job.inputs, job.params, outputs, ctx)
