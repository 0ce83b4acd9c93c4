"""Runs a stage as one task of a Kubeflow pipeline."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from graftgan import kfp_io
from graftgan.context import StopSignal
from graftgan.contract import Result, shared_path
from graftgan.engine import Job
from graftgan.kfp_retry import Attempts
from graftgan.params import loads
from graftgan.places import cache_home
from graftgan.runner import finish_tracking, run_stage
from graftgan.stages.specs import StageSpec
from graftgan.workers import refuse_several

_log = logging.getLogger("graftgan")


def run_task(spec: StageSpec, executor_input: str, stop: StopSignal) -> tuple[Result, bool]:
    """Run a stage with the paths and parameters of an executor input, and write the executor output.

    Args:
        spec: The stage.
        executor_input: The JSON that took the place of `{{$}}`.
        stop: The process's stop signal.

    Returns:
        The result, and whether the stage ran.

    Raises:
        GraftganError: As the stage raises; a final failure is noted for further attempts.
    """
    refuse_several("a Kubeflow task")
    with Attempts.of(spec.name, executor_input).counted():
        call = kfp_io.read(executor_input, spec)
        job = Job(spec, loads(call.config_json, call.assignments), call.inputs, call.outputs)
        if call.pins:
            call.check_pins(job.external_digests())
        warm_cache(call.warm)
        try:
            result, ran = run_stage(job, stop)
        finally:
            finish_tracking()
        kfp_io.write(call, result, spec)
    return result, ran


def warm_cache(folders: Iterable[Path]) -> None:
    """Put feature files of other tasks into this one's cache; what is absent is computed here."""
    target = cache_home() / "features"
    for folder in folders:
        if not folder.is_dir():
            _log.warning("%s was not brought here; its features are computed again", folder)
            continue
        for file in sorted(folder.rglob("*.safetensors")):
            _place(file, target / file.relative_to(folder))


def _place(file: Path, target: Path) -> None:
    if target.exists():
        return
    with shared_path(target) as temporary:
        shutil.copyfile(file, temporary)
