"""Runs one stage: checks its inputs, skips it when nothing changed, and puts its outputs in place whole."""

from __future__ import annotations

import importlib
import platform
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftgan.config import Params
from graftgan.context import Context
from graftgan.contract import (
    Entry,
    Outcome,
    Result,
    atomic_path,
    canonical_json,
    digest_text,
    size_bytes,
    sweep,
    write_json,
)
from graftgan.digests import DigestCache
from graftgan.errors import GraftganError, MissingInput, TryAgain
from graftgan.lifelong_config import LifelongParams
from graftgan.locks import alone, alone_at, true_path
from graftgan.params import config_digest, leaves
from graftgan.places import cache_home, code_digest, home
from graftgan.remote import is_address, local
from graftgan.stages.specs import StageSpec, stage
from graftgan.unfinished import NOTE, Note, noted, tell, unused

# A feature network or classifier that the user brings; the file may change while its name stays.
NETWORK_FILE = re.compile(r"(torchscript|onnx):(?P<path>[^?]+)")
# Files of earlier tasks, which are named in a list.
ADAPTER_FILES = "finetune.gan_memory.compress.earlier"
# The saved states of trainings, as `training.state` names them; that module imports torch.
TRAINED = "images-" + "[0-9]" * 12
StageFunction = Callable[..., Outcome]
"""Takes inputs, parameters, outputs and context, and the item of a stage that has one."""


def default_paths(spec: StageSpec, out: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the input and output paths of a stage in the folder layout `out/STAGE/PORT`."""
    inputs = {}
    for name, origin in spec.inputs.items():
        writer, port = origin.split(".")
        inputs[name] = out / writer / stage(writer).port(port).file_name
    outputs = {port.name: out / spec.name / port.file_name for port in spec.outputs}
    return inputs, outputs | {"result": out / spec.name / "result.json"}


@dataclass(frozen=True)
class Job:
    """One stage with its paths and parameters, ready to run.

    Attributes:
        spec: The stage.
        params: All parameters.
        inputs: Path of each input.
        outputs: Path of each output, and of `result`.
        read_only: Whether nothing may be written, digests that are remembered to save time included.
    """

    spec: StageSpec
    params: Params | LifelongParams
    inputs: Mapping[str, Path]
    outputs: Mapping[str, Path]
    read_only: bool = False

    @property
    def digests(self) -> DigestCache:
        """What remembers the digests of files."""
        return DigestCache(cache_home(), writes=not self.read_only)

    def external(self) -> dict[str, Path]:
        """Return the paths that the parameters name, those of networks in files among them.

        What has an address in a store is fetched.
        """
        flat = leaves(self.params, self.spec.external)
        named = {key: local(flat[key], cache_home()) for key in self.spec.external if flat[key] is not None}
        for key, value in leaves(self.params, self.spec.params).items():
            if isinstance(value, str) and (found := NETWORK_FILE.match(value)):
                named[key] = Path(found["path"]).expanduser()
            elif key == ADAPTER_FILES:
                named |= {f"{key}[{i}]": Path(name).expanduser() for i, name in enumerate(value)}
        return named

    def in_stores(self) -> list[str]:
        """Return the addresses in object stores that the parameters name."""
        values = leaves(self.params, self.spec.external).values()
        return [str(value) for value in values if value is not None and is_address(value)]

    def input_digests(self) -> dict[str, str]:
        """Return the digest of every input, internal and external.

        Raises:
            MissingInput: If one does not exist.
        """
        return self.internal_digests() | self.external_digests()

    def internal_digests(self) -> dict[str, str]:
        """Return the digest of each output of an earlier stage that this one reads.

        Raises:
            MissingInput: If it does not exist.
        """
        digests = {}
        for name, path in sorted(self.inputs.items()):
            if not path.exists():
                raise MissingInput(
                    f"input {name} of {self.spec.name}: {path} does not exist",
                    f"run `graftgan {self.spec.writer(name)}`",
                )
            digests[name] = self.digests.digest_output(path)
        return digests

    def external_digests(self) -> dict[str, str]:
        """Return the digest of what each key that names a path names.

        Raises:
            MissingInput: If it does not exist.
        """
        digests = {}
        cache = self.digests
        for key, path in self.external().items():
            if not path.exists():
                raise MissingInput(f"{key}: {path} does not exist", f"correct {key} in the parameters")
            digests[key] = cache.digest(path)
        return digests

    def plan(self) -> Result:
        """Return the result record as it stands before the stage has run."""
        return Result(
            stage=self.spec.name,
            config=config_digest(self.params, self.spec.params),
            code=code_digest(),
            inputs=self.input_digests(),
        )

    def note(self, plan: Result) -> Note:
        """Return what a saved state of this job belongs to."""
        config = leaves(self.params, self.spec.params)
        return Note(str(true_path(self.outputs["result"])), config, plan.code, plan.inputs)

    def done_before(self, plan: Result) -> Result | None:
        """Return the earlier result if it has the same plan and its outputs are as it left them."""
        try:
            earlier = Result.read(self.outputs["result"])
        except MissingInput:
            return None
        same = (earlier.config, earlier.code, earlier.inputs) == (plan.config, plan.code, plan.inputs)
        if not same or not all(p.exists() for p in self.outputs.values()):
            return None
        digest = self.digests.digest_output
        whole = all(digest(self.outputs[name]) == entry.digest for name, entry in earlier.outputs.items())
        return earlier if whole else None


def state_key(plan: Result) -> str:
    """Return the name of the state folder of a plan."""
    text = canonical_json([plan.stage, plan.config, plan.code, plan.inputs])
    return f"{plan.stage}-{digest_text(text)[:16]}"


def run_job(job: Job, make_context: Callable[[Path], Context], force: bool = False) -> tuple[Result, bool]:
    """Run a stage unless an equal run left its outputs in place.

    Args:
        job: What to run.
        make_context: Makes the context, given the state folder; called only if the stage runs.
        force: Run even if nothing changed.

    Returns:
        The result, and whether the stage ran.

    Raises:
        MissingInput: If an input does not exist.
        TryAgain: If another process works on the same outputs or with the same training state, or an input
            changed meanwhile.
    """
    plan = job.plan()
    if not force and (earlier := job.done_before(plan)):
        _drop_spent(job, plan)
        return earlier, False
    with ExitStack() as stack:
        result = true_path(job.outputs["result"])
        # Where outputs lie, a run from another folder, with another home, or through a link sees it too.
        stack.enter_context(alone_at(result, job.spec.name))
        for thing in (str(result), state_key(plan)):
            stack.enter_context(alone(thing, job.spec.name))
        return _work(job, plan, make_context), True


def _drop_spent(job: Job, plan: Result) -> None:
    """Remove the saved state of a run that was killed behind its result, before it had done so itself.

    A state with a note is of an equal run that has still to fill outputs of its own. What stages leave beside
    the states of training is for later readers.
    """
    state = home() / "state" / state_key(plan)
    if not any(state.rglob(TRAINED)):
        return
    with suppress(TryAgain), alone(state_key(plan), job.spec.name):
        if not (state / NOTE).exists():
            shutil.rmtree(state, ignore_errors=True)


def _work(job: Job, plan: Result, make_context: Callable[[Path], Context]) -> Result:
    started = time.time()
    state = home() / "state" / state_key(plan)
    context = make_context(state)
    note = job.note(plan)
    tell(job.spec.name, unused(state, note), context.resume, context.log)
    function: StageFunction = importlib.import_module(job.spec.entry).run
    job.outputs["result"].unlink(missing_ok=True)
    facts = job.outputs["result"].with_name("run.json")
    for path in (*job.outputs.values(), facts):
        sweep(path)
    with ExitStack() as stack:
        stack.enter_context(noted(state, note))
        temporary = {p.name: stack.enter_context(atomic_path(job.outputs[p.name])) for p in job.spec.outputs}
        for port in job.spec.outputs:
            if port.folder:
                temporary[port.name].mkdir()
        item = (job.spec.item,) if job.spec.item else ()
        outcome = function(job.inputs, job.params, temporary, context, *item)
        _check_written(job.spec, temporary)
        _check_inputs(job, plan, state)
    for name, digests in outcome.digests.items():
        job.digests.remember(job.outputs[name], digests)
    digest = job.digests.digest_output
    entries = {
        p.name: Entry(digest(job.outputs[p.name]), size_bytes(job.outputs[p.name]))
        for p in job.spec.outputs
        if not p.volatile
    }
    result = Result(
        plan.stage,
        plan.config,
        plan.code,
        plan.inputs,
        entries,
        dict(outcome.metrics),
        tuple(outcome.warnings),
    )
    write_json(facts, run_facts(time.time() - started) | dict(outcome.facts))
    result.write(job.outputs["result"])
    for path in outcome.spent:
        shutil.rmtree(path, ignore_errors=True)
    return result


def _check_written(spec: StageSpec, paths: Mapping[str, Path]) -> None:
    for port in spec.outputs:
        if not paths[port.name].exists():
            raise GraftganError(f"stage {spec.name} did not write its output {port.name}")


def _check_inputs(job: Job, plan: Result, state: Path) -> None:
    """Refuse what may be of two states of an input: a stage may open one more than once."""
    reads = [(job.inputs, job.digests.digest_output), (job.external(), job.digests.digest)]
    changed = [
        name
        for paths, digest in reads
        for name, path in sorted(paths.items())
        if not path.exists() or digest(path) != plan.inputs[name]
    ]
    if not changed:
        return
    # It bears the old digests, and may be of the new inputs.
    shutil.rmtree(state, ignore_errors=True)
    raise TryAgain(
        f"an input changed while the stage ran: {', '.join(changed)} of {job.spec.name}; nothing is recorded",
        "run it again, and leave its inputs alone meanwhile",
    )


def run_facts(seconds: float) -> dict[str, Any]:
    """Return the volatile facts of a run: time, machine, versions. Never an input of anything."""
    from importlib import metadata

    def version(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    return {
        "seconds": round(seconds, 3),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": platform.node(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("graftgan", "torch", "numpy", "mlflow", "kfp", "dvc")},
    }
