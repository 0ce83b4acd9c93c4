"""Makes a container component from a stage's description."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from kfp import dsl

import graftgan
from graftgan.kfp_io import CONFIG, PICTURES, PINS, SUMMARY, Knob, Pin, knobs
from graftgan.stages.specs import CLUSTER_STAGES, RESULT, Port, StageSpec, stage

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


CLUSTER = ("task",)
"""Group of the sub-commands that only a cluster's pipelines have."""


def component(name: str, items: Collection[str] = ()) -> Callable[..., Any]:
    """Return the component of a stage: its command is the command line plus the executor input.

    Args:
        name: Name of the stage.
        items: Knobs for lists that take a single item here, for the tasks of a fan-out.
    """
    spec = stage(name)
    words = (*CLUSTER, name) if spec in CLUSTER_STAGES else (name,)
    return container(name, describe(spec), signature(spec, items), words)


def container_component(
    name: str, spec: StageSpec, inputs: Mapping[str, Port], texts: Mapping[str, str], words: Sequence[str]
) -> Callable[..., Any]:
    """Return a component all of whose parameters are texts, empty by default but for the configuration.

    Args:
        name: Its name.
        spec: The stage's description.
        inputs: The port that each input comes from.
        texts: Help of each parameter.
        words: The sub-command.
    """
    read = [parameter(name, dsl.Input[ARTIFACTS[port.kind]]) for name, port in inputs.items()]
    outputs = [parameter(p.name, dsl.Output[ARTIFACTS[p.kind]]) for p in outputs_of(spec)]
    given = [parameter(name, str, "{}" if name == CONFIG else "") for name in texts]
    helps = {name: port.help for name, port in inputs.items()} | dict(texts)
    text = "\n".join([spec.help, "", "Args:", *(f"    {name}: {told}" for name, told in helps.items())])
    return container(name, text, inspect.Signature([*read, *outputs, *given]), words)


def container(
    name: str, text: str, parameters: inspect.Signature, words: Sequence[str]
) -> Callable[..., Any]:
    """Return a container component that runs a sub-command on its executor input.

    Args:
        name: Its name.
        text: Docstring, from which the Kubeflow UI takes its help texts.
        parameters: Its parameters, with kfp's annotations.
        words: The sub-command.
    """

    def function(*placeholders: object) -> dsl.ContainerSpec:
        return dsl.ContainerSpec(
            image=IMAGE,
            command=["env", LOCAL_MARKER, RUN_ID, "graftgan", *words],
            args=["--kfp-executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
        )

    function.__name__ = name
    function.__doc__ = text
    function.__signature__ = parameters  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters.parameters.values()}
    made: Callable[..., Any] = dsl.container_component(function)
    return made


def parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    """Return a parameter of a signature."""
    return inspect.Parameter(
        name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation, default=default
    )


def signature(spec: StageSpec, items: Collection[str] = ()) -> inspect.Signature:
    """Return the component's parameters: artifacts in, configuration, pins, knobs, artifacts out."""

    def incoming(name: str, listed: bool) -> inspect.Parameter:
        kind = ARTIFACTS[origin_port(spec.origin(name)).kind]
        return parameter(name, dsl.Input[list[kind]] if listed else dsl.Input[kind])  # type: ignore[valid-type]

    inputs = [incoming(name, name in spec.many) for name in spec.inputs]
    inputs += [incoming(name, True) for name in spec.warm]
    outputs = [parameter(p.name, dsl.Output[ARTIFACTS[p.kind]]) for p in outputs_of(spec)]
    told = [parameter(name, dsl.OutputPath(str)) for name in spec.told]
    texts = [parameter(CONFIG, str, "{}"), *(parameter(name, str, "") for name in pins(spec))]
    for name, knob in knobs(spec).items():
        single = name in items
        texts.append(parameter(name, str if single else knob.type, "" if single else knob.neutral))
    return inspect.Signature([*inputs, *outputs, *told, *texts])


def outputs_of(spec: StageSpec) -> tuple[Port, ...]:
    """Return the ports of a component: the stage's, its result, and what its card shows."""
    return (*spec.outputs, RESULT, SUMMARY, *([PICTURES] if spec.pictures else []))


def pins(spec: StageSpec) -> dict[str, Pin]:
    """Return the digests that are part of a task's cache key: all, but of prepare only those that it reads.

    Later stages see what is outside through artifacts of earlier ones, of which Kubeflow's key holds only the
    names.
    """
    return {name: pin for name, pin in PINS.items() if spec.inputs or pin.key in spec.external}


def origin_port(origin: str) -> Port:
    """Return the port that `STAGE.PORT` names."""
    writer, port = origin.split(".")
    return stage(writer).port(port)


def describe(spec: StageSpec) -> str:
    """Return the component's docstring, from which the Kubeflow UI takes its help texts."""
    texts: dict[str, Knob | Pin] = {**pins(spec), **knobs(spec)}
    lines = [spec.help, "", "Args:"]
    lines += [f"    {name}: {origin_port(spec.origin(name)).help}" for name in (*spec.inputs, *spec.warm)]
    lines += [f"    {CONFIG}: {CONFIG_HELP}"]
    lines += [f"    {name}: {verb(entry)} {entry.key}: {entry.help}" for name, entry in texts.items()]
    return "\n".join(lines)


def verb(entry: Knob | Pin) -> str:
    """Return what a parameter does to its key."""
    return "overrides" if isinstance(entry, Knob) else "checks"
