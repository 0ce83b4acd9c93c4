"""Exit handler: closes the MLflow run and reports the final state."""

from __future__ import annotations

import inspect

from kfp import dsl

from components.base import CLUSTER, container, parameter
from graftgan.kfp_finish import STATUS
from graftgan.kfp_io import CONFIG, KNOBS, SUMMARY

TEXT = f"""Close the run's MLflow run and report its final state.

Args:
    {CONFIG}: whole configuration as JSON, from `graftgan config show --json`
    tracking_uri: overrides track.uri: {KNOBS["tracking_uri"].help}
"""

finish = container(
    "finish",
    TEXT,
    inspect.Signature(
        [
            parameter(STATUS, dsl.PipelineTaskFinalStatus),
            parameter(SUMMARY.name, dsl.Output[dsl.Markdown]),
            parameter(CONFIG, str, "{}"),
            parameter("tracking_uri", str, ""),
        ]
    ),
    (*CLUSTER, "finish"),
)
