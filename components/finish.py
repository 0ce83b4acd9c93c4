"""Exit handler: closes the MLflow run and reports the final state."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from kfp import dsl

from components.base import CLUSTER, CONFIG_HELP, container, parameter
from graftgan.kfp_finish import STATUS
from graftgan.kfp_io import CONFIG, KNOBS, SUMMARY


def finish_component(name: str, config_help: str) -> Callable[..., Any]:
    """Return the exit handler of a pipeline.

    Args:
        name: Its name, which is also the sub-command's.
        config_help: Help of the configuration text.
    """
    text = (
        "Close the run's MLflow run and report its final state.\n\nArgs:\n"
        f"    {CONFIG}: {config_help}\n"
        f"    tracking_uri: overrides track.uri: {KNOBS['tracking_uri'].help}\n"
    )
    parameters = [
        parameter(STATUS, dsl.PipelineTaskFinalStatus),
        parameter(SUMMARY.name, dsl.Output[dsl.Markdown]),
        parameter(CONFIG, str, "{}"),
        parameter("tracking_uri", str, ""),
    ]
    return container(name, text, inspect.Signature(parameters), (*CLUSTER, name))


finish = finish_component("finish", CONFIG_HELP)
