"""Makes a container component from a stage's description."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from kfp import dsl

import graftgan
from graftgan.kfp_io import CONFIG, SUMMARY, knobs
from graftgan.stages.specs import RESULT, Port, StageSpec, stage

IMAGE = f"graftgan:{graftgan.__version__}"
# kfp.local runs a container component as a subprocess only if this name stands somewhere in its command.
LOCAL_MARKER = "GRAFTGAN_RUNNER=kfp.dsl.executor_main"
# Tasks of one pipeline run join one MLflow parent run by this.
RUN_ID = f"KFP_RUN_ID={dsl.PIPELINE_JOB_ID_PLACEHOLDER}"
ARTIFACTS = {
    "dataset": dsl.Dataset,
    "model": dsl.Model,
    "metrics": dsl.Metrics,
    "html": dsl.HTML,
    "markdown": dsl.Markdown,
    "artifact": dsl.Artifact,
}


def component(name: str) -> Callable[..., Any]:
    """Return the component of a stage: its command is the command line plus the executor input.

    Args:
        name: Name of the stage.
    """
    spec = stage(name)

    def container(*placeholders: object) -> dsl.ContainerSpec:
        return dsl.ContainerSpec(
            image=IMAGE,
            command=["env", LOCAL_MARKER, RUN_ID, "graftgan", spec.name],
            args=["--kfp-executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
        )

    container.__name__ = spec.name
    container.__doc__ = describe(spec)
    container.__signature__ = signature(spec)  # type: ignore[attr-defined]
    container.__annotations__ = {p.name: p.annotation for p in signature(spec).parameters.values()}
    made: Callable[..., Any] = dsl.container_component(container)
    return made


def signature(spec: StageSpec) -> inspect.Signature:
    """Return the component's parameters: input artifacts, configuration, knobs, output artifacts."""

    def parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
        return inspect.Parameter(
            name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation, default=default
        )

    inputs = [parameter(name, dsl.Input[ARTIFACTS[origin_port(o).kind]]) for name, o in spec.inputs.items()]
    outputs = [parameter(p.name, dsl.Output[ARTIFACTS[p.kind]]) for p in (*spec.outputs, RESULT, SUMMARY)]
    texts = [parameter(CONFIG, str, "{}"), *(parameter(name, str, "") for name in knobs(spec))]
    return inspect.Signature([*inputs, *outputs, *texts])


def origin_port(origin: str) -> Port:
    """Return the port that `STAGE.PORT` names."""
    writer, port = origin.split(".")
    return stage(writer).port(port)


def describe(spec: StageSpec) -> str:
    """Return the component's docstring, from which the Kubeflow UI takes its help texts."""
    lines = [spec.help, "", "Args:"]
    lines += [f"    {name}: {origin_port(origin).help}" for name, origin in spec.inputs.items()]
    lines += [f"    {CONFIG}: whole configuration as JSON, from `graftgan config show --json`"]
    lines += [f"    {name}: overrides {knob.key}: {knob.help}" for name, knob in knobs(spec).items()]
    return "\n".join(lines)
