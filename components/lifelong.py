"""The components of a list of tasks: one of each kind of stage; `learn` and `evaluate` are told the task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from components.base import container_component
from components.finish import finish_component
from graftgan.kfp_io import CONFIG, DIGESTS, DIGESTS_HELP, ITEM, LIFELONG_KNOBS, knobs
from graftgan.stages.lifelong_specs import GROUP, KINDS, LEARNT, VERIFIED, lifelong_stage
from graftgan.stages.specs import StageSpec

EXAMPLE = "NAME"
HELPS = {
    "learn": "Learn one task and add it to the bank of the tasks before it.",
    "evaluate": "Score every task of the bank after one was added.",
}
CONFIG_HELP = "the list of tasks as JSON, from `python -m pipelines.lifelong config`"


def texts(spec: StageSpec) -> dict[str, str]:
    """Return the help of every parameter of a stage's component.

    All but `create` have the digests of the image sets: later stages see what is outside through artifacts,
    of which Kubeflow's cache key holds only the names.
    """
    turned = knobs(spec, LIFELONG_KNOBS)
    helps = {name: f"overrides {knob.key}: {knob.help}" for name, knob in turned.items()}
    digests = {DIGESTS: DIGESTS_HELP} if spec.inputs else {}
    return {CONFIG: CONFIG_HELP} | ({ITEM: "name of the task"} if spec.item else {}) | digests | helps


def _component(kind: str) -> Callable[..., Any]:
    spec = lifelong_stage((EXAMPLE,), kind, EXAMPLE if kind in HELPS else "")
    spec = replace(spec, help=HELPS.get(kind, spec.help))
    ports = {port.name: port for port in (LEARNT, *VERIFIED)}
    inputs = {name: ports[origin.split(".")[1]] for name, origin in spec.inputs.items()}
    return container_component(f"{GROUP}-{kind}", spec, inputs, texts(spec), (GROUP, kind))


FINISH = finish_component("finish-lifelong", CONFIG_HELP)
COMPONENTS = {kind: _component(kind) for kind in KINDS}
