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
from graftgan.errors import ConfigError, MissingInput
from graftgan.stages.specs import RESULT, Port, StageSpec

CONFIG = "config_json"
CONFIGURED = "configured"
SUMMARY = Port("summary", "markdown", "what the stage did, for the task card", folder=False)
PICTURES = Port("pictures", "html", "pictures of the stage's outputs, for the task card", folder=False)
CARD = (SUMMARY.name, PICTURES.name)
MOUNTS = {"gs": "/gcs", "s3": "/s3", "minio": "/minio", "file": ""}
SHARED_SECTIONS = ("track", "runtime")
# The Kubeflow UI reads a card whole, and stops at tens of megabytes.
MAX_CARD_BYTES = 2_000_000


@dataclass(frozen=True)
class Knob:
    """One pipeline parameter that overrides keys of the configuration text.

    Attributes:
        key: Dotted configuration key, of an arm that of its method.
        help: One line for the form in the Kubeflow UI.
        kind: "text" is taken as it stands, "number" is a float, "names" a list or a comma-separated text, and
            "arm" is `METHOD/SEED`.
    """

    key: str
    help: str
    kind: str = "text"

    @property
    def type(self) -> type:
        """Python type of the parameter of a component."""
        return {"number": float, "names": list}.get(self.kind, str)

    @property
    def neutral(self) -> Any:
        """Value that leaves the configuration alone."""
        return {"number": 0.0, "names": [CONFIGURED], "arm": CONFIGURED}.get(self.kind, "")

    def assignments(self, value: Any) -> list[str]:
        """Return `key=value` texts with the values as YAML; none where the value leaves the key alone.

        Raises:
            ConfigError: If an arm is not `METHOD/SEED`.
        """
        if value in (None, "", 0, [], self.neutral, CONFIGURED):
            return []
        if self.kind == "arm":
            return _arm(str(value))
        if self.kind == "names":
            return [f"{self.key}={_names(value)}"]
        if self.kind == "number":
            return [f"{self.key}={value}"]
        return [f"{self.key}={json.dumps(value, ensure_ascii=False)}"]


def _names(value: Any) -> str:
    if isinstance(value, str) and value.lstrip().startswith("["):
        return value
    names = value.split(",") if isinstance(value, str) else value
    return json.dumps([str(name).strip() for name in names], ensure_ascii=False)


def _arm(text: str) -> list[str]:
    method, slash, seed = text.partition("/")
    if not method or (slash and not seed.isdigit()):
        raise ConfigError(f"arms: {text!r} is not METHOD/SEED", "write for example full/0 or configured/3")
    assignments = [] if method == CONFIGURED else [f"finetune.method={json.dumps(method)}"]
    return [*assignments, f"finetune.seed={seed}"] if slash else assignments


KNOBS: dict[str, Knob] = {
    "data_path": Knob("data.path", "image set: folder, zip or parquet file, as the container sees it"),
    "catalogue": Knob("rank.catalogue", "file that lists the source checkpoints"),
    "sources": Knob(
        "rank.sources", "sources to rank, each a task; configured ranks the configuration's in one", "names"
    ),
    "choose": Knob("rank.choose", "recommended, scratch, or the name of a source"),
    "arm": Knob("finetune.method", "METHOD/SEED, overriding finetune.seed too", "arm"),
    "budget_kimg": Knob(
        "finetune.budget.kimg", "length of training in thousands of images; 0 is as configured", "number"
    ),
    "model_name": Knob("registry.name", "registered model name"),
    "tracking_uri": Knob("track.uri", "MLflow tracking and registry URI"),
    "device": Knob("runtime.device", "auto, cpu, cuda or cuda:N"),
}


@dataclass(frozen=True)
class Pin:
    """A pipeline parameter that names the digest of something outside; it is part of a task's cache key.

    Attributes:
        key: Dotted configuration key of the path.
        help: One line for the form in the Kubeflow UI.
    """

    key: str
    help: str


PINS: dict[str, Pin] = {
    "data_digest": Pin(
        "data.path", "sha256 of the image set, as `python -m pipelines.submit digest` tells it"
    ),
    "catalogue_digest": Pin("rank.catalogue", "sha256 of the catalogue file"),
}


LIFELONG_KNOBS: dict[str, Knob] = {
    name: Knob(KNOBS[name].key, KNOBS[name].help) for name in ("model_name", "tracking_uri", "device")
}
ITEM = "task"
DIGESTS = "data_digests"
DIGESTS_HELP = "checks the image sets: sha256 by key as JSON, from `python -m pipelines.lifelong digests`"


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
        inputs: Path of each input artifact; without a suffix even of a file. A list is `NAME/0` and on.
        warm: Folders of feature files that save time.
        outputs: Path of each output artifact, and of `result`.
        config_json: The whole configuration as JSON text.
        assignments: `key=value` texts from the knobs that were turned.
        pins: Expected digests of what lies outside, by configuration key; only those that were given.
        item: What the stage is to be done for, such as one task of a list; empty where it has none.
        artifacts: The output artifacts as they came, by name.
        parameters: File of each output parameter.
        executor_output: Where the executor output goes.
    """

    inputs: dict[str, Path]
    warm: list[Path]
    outputs: dict[str, Path]
    config_json: str
    assignments: list[str]
    pins: dict[str, str]
    item: str
    artifacts: dict[str, dict[str, Any]] = field(repr=False)
    parameters: dict[str, Path] = field(repr=False)
    executor_output: Path = field(repr=False)

    def check_pins(self, digests: Mapping[str, str]) -> None:
        """Compare what lies outside with what the run was submitted with.

        Args:
            digests: Digest of the content of each configuration key that names a path, as the task finds it.

        Raises:
            MissingInput: If something is not what was recorded.
        """
        for key, expected in self.pins.items():
            found = digests.get(key, expected)
            if found != expected:
                raise MissingInput(
                    f"{key} has digest {found}, but the run was submitted with {expected}",
                    f"submit with the digest of what the containers see, or correct {key}",
                )


def read(text: str, spec: StageSpec | None = None, known: Mapping[str, Knob] = KNOBS) -> KfpCall:
    """Read an executor input.

    Args:
        text: The JSON that took the place of `{{$}}`.
        spec: The stage, which tells what inputs are lists; without it none is.
        known: The knobs of the pipeline.

    Raises:
        ConfigError: If it is not an executor input, or names an unknown parameter or kind of artifact store.
    """
    many, warm = (spec.many, tuple(spec.warm)) if spec else ((), ())
    try:
        message = json.loads(text)
        given, wanted = message.get("inputs", {}), message["outputs"]
        parameters = dict(given.get("parameterValues", {}))
        inputs: dict[str, dict[str, Any]] = {}
        for name, entry in given.get("artifacts", {}).items():
            listed = {f"{name}/{n}": dict(a) for n, a in enumerate(entry["artifacts"])}
            inputs |= listed if name in (*many, *warm) else {name: _single(name, entry)}
        artifacts = {name: _single(name, entry) for name, entry in wanted.get("artifacts", {}).items()}
        told = {name: Path(entry["outputFile"]) for name, entry in wanted.get("parameters", {}).items()}
        executor_output = Path(wanted["outputFile"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"--kfp-executor-input is not an executor input: {type(error).__name__}: {error}",
            "let a pipeline fill it in: --kfp-executor-input '{{$}}'",
        ) from None
    paths = {name: local_path(artifact) for name, artifact in inputs.items()}
    return KfpCall(
        inputs={name: path for name, path in paths.items() if name.split("/")[0] not in warm},
        warm=[path for name, path in paths.items() if name.split("/")[0] in warm],
        outputs={name: local_path(artifact) for name, artifact in artifacts.items() if name not in CARD},
        config_json=str(parameters.pop(CONFIG, None) or "{}"),
        pins=_pins(parameters, known),
        item=str(parameters.pop(ITEM, None) or "") if known is LIFELONG_KNOBS else "",
        assignments=_assignments(parameters, known),
        artifacts=artifacts,
        parameters=told,
        executor_output=executor_output,
    )


def _pins(parameters: dict[str, Any], known: Mapping[str, Knob]) -> dict[str, str]:
    """Take the digests out of the parameters and return them by configuration key."""
    if known is not LIFELONG_KNOBS:
        return {
            pin.key: value for name, pin in PINS.items() if (value := str(parameters.pop(name, "") or ""))
        }
    try:
        given = json.loads(parameters.pop(DIGESTS, "") or "{}")
        return {str(key): str(value) for key, value in given.items()}
    except (ValueError, TypeError, AttributeError):
        remedy = "pass what `python -m pipelines.lifelong digests` prints"
        raise ConfigError(f"{DIGESTS} is no JSON from keys to digests", remedy) from None


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
    return [text for name, value in parameters.items() for text in known[name].assignments(value)]


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


def write(call: KfpCall, result: Result, spec: StageSpec | None = None) -> None:
    """Write the executor output, with digests and metrics as metadata, and what the task's card shows.

    Args:
        call: What `read` returned.
        result: What the stage did.
        spec: The stage, which tells its pictures and output parameters.
    """
    if SUMMARY.name in call.artifacts:
        write_text(local_path(call.artifacts[SUMMARY.name]), markdown(result))
    if PICTURES.name in call.artifacts and spec is not None:
        write_text(local_path(call.artifacts[PICTURES.name]), pictures(call, spec))
    artifacts = {}
    for name, artifact in call.artifacts.items():
        metadata = {**artifact.get("metadata", {}), **_metadata(name, result)}
        artifacts[name] = {"artifacts": [{**artifact, "metadata": metadata}]}
    told = {name: told_value(call, spec, name) for name in call.parameters} if spec is not None else {}
    for name, value in told.items():
        write_text(call.parameters[name], value)
    output = {"artifacts": artifacts, **({"parameterValues": told} if told else {})}
    write_json(call.executor_output, output)


def told_value(call: KfpCall, spec: StageSpec, name: str) -> str:
    """Return the value of an output parameter."""
    port, _, file = spec.told[name].partition("/")
    return (call.outputs[port] / file).read_text(encoding="utf-8").strip()


def pictures(call: KfpCall, spec: StageSpec) -> str:
    """Return the page of a stage's pictures; what is beyond a card's size is left out."""
    from graftgan.reporting.comparison import pictures_html

    found: list[tuple[str, Path]] = []
    total_bytes = 0
    for pattern in spec.pictures:
        port, _, rest = pattern.partition("/")
        for path in sorted(call.outputs[port].glob(rest)):
            total_bytes += path.stat().st_size
            if total_bytes <= MAX_CARD_BYTES:
                found.append((path.relative_to(call.outputs[port]).as_posix(), path))
    return pictures_html(f"{spec.name}: pictures", found)


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
