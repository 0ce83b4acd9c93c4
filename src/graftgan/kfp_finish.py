"""The exit handler of a Kubeflow run: closes its MLflow run and reports the final state."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graftgan.config import Params
from graftgan.contract import write_json, write_text
from graftgan.errors import ConfigError, TryAgain
from graftgan.identity import resolve_identity
from graftgan.kfp_io import CONFIG, KNOBS, SUMMARY, local_path
from graftgan.lifelong_config import LifelongParams
from graftgan.params import loads
from graftgan.redaction import blotted

STATES = {"SUCCEEDED": "FINISHED", "FAILED": "FAILED", "CANCELLED": "KILLED", "CANCELED": "KILLED"}
STATUS = "status"
Read = Callable[[str, Sequence[str]], Params | LifelongParams]
_log = logging.getLogger("graftgan")


@dataclass(frozen=True)
class FinalState:
    """How a Kubeflow run ended.

    Attributes:
        state: SUCCEEDED, FAILED or CANCELLED.
        run: Resource name of the run.
        error: What went wrong, without secrets in addresses, or empty.
    """

    state: str
    run: str
    error: str

    @classmethod
    def of(cls, status: Any) -> FinalState:
        """Read the message `PipelineTaskFinalStatus`, whose keys are written in two ways.

        Raises:
            ConfigError: If it is not one.
        """
        given = json.loads(status) if isinstance(status, str) and status.startswith("{") else status
        if not isinstance(given, Mapping) or not given.get("state"):
            raise ConfigError(
                f"{STATUS} is not a final status: {status!r}", "use the task as an exit handler"
            )
        error = given.get("error") or {}
        name = given.get("pipelineJobResourceName") or given.get("pipeline_job_resource_name") or ""
        return cls(str(given["state"]), str(name), blotted(str(error.get("message", ""))))


def finish(executor_input: str, read: Read = loads) -> None:
    """Close the MLflow run of this Kubeflow run, write the card and log the final state.

    A tracking server that is away fails nothing: the card says what is left to do.

    Args:
        executor_input: The JSON that took the place of `{{$}}`.
        read: Reads the pipeline's configuration text with `key=value` assignments.

    Raises:
        ConfigError: If it is not an exit handler's input.
    """
    try:
        message = json.loads(executor_input)
        values, outputs = dict(message["inputs"]["parameterValues"]), message["outputs"]
        final = FinalState.of(values.pop(STATUS, None))
        artifact = outputs["artifacts"][SUMMARY.name]["artifacts"][0]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(
            f"--kfp-executor-input is not an exit handler's: {type(error).__name__}: {error}",
            "let a pipeline fill it in: --kfp-executor-input '{{$}}'",
        ) from None
    config = str(values.pop(CONFIG, None) or "{}")
    params = read(config, [text for name, value in values.items() for text in KNOBS[name].assignments(value)])
    closed = close_run(params, final)
    write_text(local_path(artifact), card(final, closed))
    write_json(Path(outputs["outputFile"]), {"artifacts": outputs["artifacts"]})
    _log.info("run %s: %s. %s", final.run or "?", final.state, closed)


def close_run(
    params: Params | LifelongParams, final: FinalState, environ: Mapping[str, str] = os.environ
) -> str:
    """Send what waits in the journal, end the parent run, and tell in words what came of it."""
    if params.track.mode == "off":
        return "Tracking is off."
    if params.track.mode == "journal":
        return "Tracking is journalled; `graftgan sync` sends it."
    try:
        from graftgan.sync import sync
        from graftgan.tracker import journal_root
        from graftgan.tracking import Connection
    except ImportError:
        return "MLflow is not installed; its run stays open."
    identity = resolve_identity(params, environ)
    try:
        sync(journal_root() / identity.key, params.track)
        connection, now_ms = Connection(params.track), time.time_ns() // 1_000_000
        experiment = connection.experiment(params.track.experiment)
        parent = connection.parent(experiment, asdict(identity), now_ms)
        tags = {"graftgan.kfp.state": final.state, "graftgan.kfp.error": final.error[:500]}
        connection.set_tags(parent, {key: value for key, value in tags.items() if value})
        connection.set_status(parent, STATES.get(final.state, "FAILED"), now_ms)
    except TryAgain as error:
        return f"MLflow's run stays open: {error.message}; {error.remedy}."
    return f"MLflow run {parent} is {STATES.get(final.state, 'FAILED')}."


def card(final: FinalState, closed: str) -> str:
    """Return the final state as Markdown."""
    from graftgan.reporting.markdown import escape

    parts = [f"# Run {final.state.lower()}", escape(closed)]
    parts += [f"Error: {escape(final.error)}"] if final.error else []
    return "\n\n".join(parts) + "\n"
