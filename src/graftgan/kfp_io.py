"""Reads the executor input of a Kubeflow task and writes its executor output; needs no kfp.

A component's command is `graftgan STAGE --kfp-executor-input '{{$}}'`. The backend, and kfp's local runner,
put one JSON text in the place of `{{$}}`: the message `ExecutorInput` of kfp's pipeline spec. The container
writes the message `ExecutorOutput` to `outputs.outputFile`; without it the UI shows no metrics of a plain
container.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graftgan.contract import Result, write_json, write_text
from graftgan.errors import ConfigError
from graftgan.stages.specs import RESULT, Port, StageSpec

CONFIG = "config_json"
SUMMARY = Port("summary", "markdown", "what the stage did, for the task card", folder=False)
MOUNTS = {"gs": "/gcs", "s3": "/s3", "minio": "/minio", "file": ""}
SHARED_SECTIONS = ("track", "runtime")


@dataclass(frozen=True)
class Knob:
    """One pipeline parameter that overrides a key of the configuration text; empty leaves the key alone.

    Attributes:
        key: Dotted configuration key.
        help: One line for the form in the Kubeflow UI.
        kind: "text" is taken as it stands, "number" is read as YAML, "names" is a comma-separated list.
    """

    key: str
    help: str
    kind: str = "text"

    def assignment(self, value: str) -> str:
        """Return `key=value` with the value as YAML."""
        if self.kind == "text":
            return f"{self.key}={json.dumps(value, ensure_ascii=False)}"
        if self.kind == "names" and not value.lstrip().startswith("["):
            return f"{self.key}={json.dumps([name.strip() for name in value.split(',')], ensure_ascii=False)}"
        return f"{self.key}={value}"


KNOBS: dict[str, Knob] = {
    "data_path": Knob("data.path", "image set: folder, zip or parquet file, as the container sees it"),
    "catalogue": Knob("rank.catalogue", "file that lists the source checkpoints"),
    "sources": Knob("rank.sources", "comma-separated sources to rank; empty means all", "names"),
    "choose": Knob("rank.choose", "recommended, scratch, or the name of a source"),
    "method": Knob("finetune.method", "transfer method"),
    "budget_kimg": Knob("finetune.budget.kimg", "length of training in thousands of images", "number"),
    "seed": Knob("finetune.seed", "seed of training", "number"),
    "model_name": Knob("registry.name", "registered model name"),
    "tracking_uri": Knob("track.uri", "MLflow tracking and registry URI"),
    "device": Knob("runtime.device", "auto, cpu, cuda or cuda:N"),
}


LIFELONG_KNOBS: dict[str, Knob] = {
    name: Knob(KNOBS[name].key, KNOBS[name].help) for name in ("model_name", "tracking_uri", "device")
}
ITEM = "task"


def knobs(spec: StageSpec, known: Mapping[str, Knob] = KNOBS) -> dict[str, Knob]:
    """Return the knobs whose key the stage reads, so that turning one changes no other task."""
    read = (*spec.params, *spec.external, *SHARED_SECTIONS)
    return {
        name: knob
        for name, knob in known.items()
        if any(f"{knob.key}.".startswith(f"{key}.") for key in read)
    }


@dataclass(frozen=True)
class KfpCall:
    """What one task was asked to do.

    Attributes:
        inputs: Path of each input artifact; without a suffix even where it is a file.
        outputs: Path of each output artifact, and of `result`.
        config_json: The whole configuration as JSON text.
        assignments: `key=value` texts from the knobs that were turned.
        item: What the stage is to be done for, such as one task of a list; empty where it has none.
        artifacts: The output artifacts as they came, by name.
        executor_output: Where the executor output goes.
    """

    inputs: dict[str, Path]
    outputs: dict[str, Path]
    config_json: str
    assignments: list[str]
    item: str
    artifacts: dict[str, dict[str, Any]] = field(repr=False)
    executor_output: Path = field(repr=False)


def read(text: str, known: Mapping[str, Knob] = KNOBS) -> KfpCall:
    """Read an executor input.

    Args:
        text: The JSON that took the place of `{{$}}`.
        known: The knobs of the pipeline.

    Raises:
        ConfigError: If it is not an executor input, or names an unknown parameter or kind of artifact store.
    """
    try:
        message = json.loads(text)
        given, wanted = message.get("inputs", {}), message["outputs"]
        parameters = dict(given.get("parameterValues", {}))
        inputs = {name: _single(name, entry) for name, entry in given.get("artifacts", {}).items()}
        artifacts = {name: _single(name, entry) for name, entry in wanted["artifacts"].items()}
        executor_output = Path(wanted["outputFile"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"--kfp-executor-input is not an executor input: {type(error).__name__}: {error}",
            "let a pipeline fill it in: --kfp-executor-input '{{$}}'",
        ) from None
    outputs = {name: local_path(artifact) for name, artifact in artifacts.items() if name != SUMMARY.name}
    return KfpCall(
        inputs={name: local_path(artifact) for name, artifact in inputs.items()},
        outputs=outputs,
        config_json=str(parameters.pop(CONFIG, None) or "{}"),
        item=str(parameters.pop(ITEM, None) or "") if known is LIFELONG_KNOBS else "",
        assignments=_assignments(parameters, known),
        artifacts=artifacts,
        executor_output=executor_output,
    )


def _single(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    artifacts = entry["artifacts"]
    if len(artifacts) != 1 or "uri" not in artifacts[0]:
        raise ValueError(f"artifact {name} is not one artifact with a uri")
    return dict(artifacts[0])


def _assignments(parameters: Mapping[str, Any], known: Mapping[str, Knob]) -> list[str]:
    if unknown := sorted(set(parameters) - set(known)):
        raise ConfigError(
            f"unknown pipeline parameter {unknown[0]!r}", f"the parameters are {', '.join(known)}"
        )
    turned = {name: value for name, value in parameters.items() if value not in (None, "")}
    return [
        known[name].assignment(value if isinstance(value, str) else json.dumps(value))
        for name, value in turned.items()
    ]


def local_path(artifact: Mapping[str, Any]) -> Path:
    """Return where a container finds an artifact: the launcher copies `s3://b/k` to and from `/s3/b/k`.

    Raises:
        ConfigError: If the URI's scheme is not one that the launcher serves.
    """
    if custom := artifact.get("customPath"):
        return Path(custom)
    uri = str(artifact["uri"])
    scheme, colon, rest = uri.partition("://")
    if not colon:
        return Path(uri)
    if scheme not in MOUNTS:
        raise ConfigError(
            f"artifact {uri} is in a store of unknown kind {scheme!r}", f"use one of {', '.join(MOUNTS)}"
        )
    return Path(f"{MOUNTS[scheme]}/{rest.lstrip('/')}")


def write(call: KfpCall, result: Result) -> None:
    """Write the executor output, with digests and metrics as metadata, and the Markdown summary.

    Args:
        call: What `read` returned.
        result: What the stage did.
    """
    if SUMMARY.name in call.artifacts:
        write_text(local_path(call.artifacts[SUMMARY.name]), markdown(result))
    artifacts = {}
    for name, artifact in call.artifacts.items():
        metadata = {**artifact.get("metadata", {}), **_metadata(name, result)}
        artifacts[name] = {"artifacts": [{**artifact, "metadata": metadata}]}
    write_json(call.executor_output, {"artifacts": artifacts})


def _metadata(name: str, result: Result) -> dict[str, Any]:
    if name == RESULT.name:
        return dict(result.metrics)
    entry = result.outputs.get(name)
    return {"digest": entry.digest, "bytes": entry.bytes} if entry else {}


def markdown(result: Result) -> str:
    """Return what a stage did as Markdown that also reads well raw: warnings, metrics and digests."""
    parts = [f"# {result.stage}: {result.status}"]
    parts += ["\n".join(f"- warning: {warning}" for warning in result.warnings)] if result.warnings else []
    parts += _table(
        ("metric", "value"), [(name, f"{value:.6g}") for name, value in sorted(result.metrics.items())]
    )
    outputs = [
        (name, f"{entry.bytes:,}", f"`{entry.digest}`") for name, entry in sorted(result.outputs.items())
    ]
    parts += _table(("output", "bytes", "sha256"), outputs)
    return "\n\n".join(parts) + "\n"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [header, tuple("---" for _ in header), *rows]
    return ["\n".join("| " + " | ".join(line) + " |" for line in lines)] if rows else []
