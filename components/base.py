"""Makes a container component from a stage's description."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
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
CONFIG_HELP = "whole configuration as JSON, from `graftgan config show --json`"
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
    inputs = {key: origin_port(origin) for key, origin in spec.inputs.items()}
    turned = {key: f"overrides {knob.key}: {knob.help}" for key, knob in knobs(spec).items()}
    return container_component(name, spec, inputs, {CONFIG: CONFIG_HELP} | turned, (name,))


def container_component(
    name: str, spec: StageSpec, inputs: Mapping[str, Port], texts: Mapping[str, str], words: Sequence[str]
) -> Callable[..., Any]:
    """Return a component that runs a sub-command.

    Args:
        name: Its name.
        spec: The stage's description.
        inputs: The port that each input comes from.
        texts: Help of each parameter; all are texts, empty by default but for the configuration.
        words: The sub-command.
    """
    shape = signature(spec, inputs, texts)

    def container(*placeholders: object) -> dsl.ContainerSpec:
        return dsl.ContainerSpec(
            image=IMAGE,
            command=["env", LOCAL_MARKER, RUN_ID, "graftgan", *words],
            args=["--kfp-executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
        )

    container.__name__ = name
    container.__doc__ = describe(spec, inputs, texts)
    container.__signature__ = shape  # type: ignore[attr-defined]
    container.__annotations__ = {p.name: p.annotation for p in shape.parameters.values()}
    made: Callable[..., Any] = dsl.container_component(container)
    return made


def signature(spec: StageSpec, inputs: Mapping[str, Port], texts: Mapping[str, str]) -> inspect.Signature:
    """Return the component's parameters: input artifacts, output artifacts, texts."""

    def parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
        return inspect.Parameter(
            name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation, default=default
        )

    read = [parameter(name, dsl.Input[ARTIFACTS[port.kind]]) for name, port in inputs.items()]
    outputs = [parameter(p.name, dsl.Output[ARTIFACTS[p.kind]]) for p in (*spec.outputs, RESULT, SUMMARY)]
    given = [parameter(name, str, "{}" if name == CONFIG else "") for name in texts]
    return inspect.Signature([*read, *outputs, *given])


def origin_port(origin: str) -> Port:
    """Return the port that `STAGE.PORT` names."""
    writer, port = origin.split(".")
    return stage(writer).port(port)


def describe(spec: StageSpec, inputs: Mapping[str, Port], texts: Mapping[str, str]) -> str:
    """Return the component's docstring, from which the Kubeflow UI takes its help texts."""
    lines = [spec.help, "", "Args:"]
    lines += [f"    {name}: {port.help}" for name, port in inputs.items()]
    lines += [f"    {name}: {text}" for name, text in texts.items()]
    return "\n".join(lines)
