"""The list of tasks of a bank, `manifest.json`: strict to read, sealed by a digest of itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from graftgan.bank.layers import LayerShape, free_widths
from graftgan.contract import canonical_json, digest_text, write_json
from graftgan.errors import CheckpointError, ConfigError, GraftganError, MissingInput
from graftgan.gans.translation import TranslatorSpec

NAME = "manifest.json"
FORMAT = 1
UNKNOWN_REMEDY = "use the version of graftgan that wrote it, or bring the file back from a copy of the bank"
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
LayerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$", max_length=200)]
TaskName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
TaskId = Annotated[str, Field(pattern=r"^[0-9]{4}-[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Count = Annotated[int, Field(ge=0)]
Colour = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]


class Strict(BaseModel):
    """A record without unknown keys whose values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


class Layer(Strict):
    """One convolution; see :class:`graftgan.bank.layers.LayerShape`. `n_u` counts its free filters."""

    name: LayerName
    kind: Literal["conv", "deconv"]
    ci: Count
    co: Count
    k: Count
    stride: Count
    pad: Count
    out_pad: Count
    d: Count
    n_u: Count

    @property
    def shape(self) -> LayerShape:
        """The sizes without what the bank makes of them."""
        return LayerShape(**self.model_dump(exclude={"d", "n_u"}))

    def rows_after(self, task: int) -> int:
        """Return the filters of the bank when task number `task`, counted from 1, is in it."""
        return self.co + (task - 1) * self.n_u if task else 0


class Outputs(Strict):
    """What a finished task made of the fixed inputs.

    Attributes:
        sha256: Of the float32 values.
        size_px: Side of the inputs.
        environment: Versions and processor on which the same bits are expected.
    """

    sha256: Digest
    size_px: Annotated[int, Field(ge=1)]
    environment: dict[str, str]


class Task(Strict):
    """One task of a bank.

    Attributes:
        id: Name of its file.
        name: Name that its user gave.
        index: Its number, counted from 1.
        prefix_cols: Layer -> filters of the bank that the task needs, its own ones last.
        sha256: File of the task -> digest of its bytes.
        prefix_sha256: Layer -> digest of the float32 rows that `prefix_cols` counts.
        tensor_sha256: Tensor of the task's file -> digest of its bytes.
        data_fingerprint: Digest of the images that it learnt from.
        config_hash: Digest of the settings that it was trained with.
        init: `random`, or `warm:` and the task that it started from.
        outputs: What it made of the fixed inputs when it was finished.
        scores: Held-out scores, by name.
        background: Colour behind the transparent pixels of its images; None is not told, and white.
    """

    id: TaskId
    name: TaskName
    index: Annotated[int, Field(ge=1)]
    prefix_cols: dict[LayerName, Count]
    sha256: dict[str, Digest]
    prefix_sha256: dict[LayerName, Digest]
    tensor_sha256: dict[str, Digest]
    data_fingerprint: str
    config_hash: str
    init: str
    outputs: Outputs
    scores: dict[str, float] = {}
    background: Colour | None = None

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not told, as the manifests of banks without backgrounds do."""
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if key != "background" or value is not None}

    @property
    def file(self) -> str:
        """Path of its file in the bank."""
        return f"tasks/{self.id}.safetensors"


class Manifest(Strict):
    """All that a bank tells about itself.

    Attributes:
        format: Version of the layout of the folder.
        arch: Kind of the generator.
        spec: Sizes of the generator.
        share: Lambda of the second and later tasks, as it was given; `lambda` in the file.
        lambda_last: Lambda of the last layer where `share` does not name it.
        order: `u_first`: free filters come before mixtures in a layer's channels.
        layers: Convolutions in the order of the network.
        tasks: Tasks in the order in which they were learnt.
    """

    format: Literal[1] = 1
    arch: str
    spec: dict[str, Any]
    share: float | list[float] | dict[str, float] = Field(alias="lambda")
    lambda_last: float
    order: Literal["u_first"] = "u_first"
    layers: Annotated[tuple[Layer, ...], Field(min_length=1)]
    tasks: tuple[Task, ...] = ()

    @model_validator(mode="after")
    def _hangs_together(self) -> Manifest:
        widths = free_widths([layer.shape for layer in self.layers], self.share, self.lambda_last)
        for layer in self.layers:
            if layer.d != layer.shape.d or layer.n_u != widths[layer.name]:
                raise ValueError(f"layer {layer.name} contradicts its own sizes or lambda")
        for number, task in enumerate(self.tasks, 1):
            rows = {layer.name: layer.rows_after(number) for layer in self.layers}
            if task.index != number or task.id != f"{number:04d}-{task.name}" or task.prefix_cols != rows:
                raise ValueError(f"task {task.name} contradicts its place or the bank's layers")
            if set(task.prefix_sha256) != set(rows) or set(task.sha256) != {task.file}:
                raise ValueError(f"task {task.name} lacks a digest")
        if len({task.name for task in self.tasks}) != len(self.tasks):
            raise ValueError("two tasks have one name")
        if self.arch != TranslatorSpec.from_dict(self.spec).kind:
            raise ValueError("arch is not the kind of the spec")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, the digest of all others under `sha256`."""
        values = self.model_dump(mode="json", by_alias=True)
        return {**values, "sha256": digest_text(canonical_json(values))}

    def write(self, folder: Path) -> None:
        """Put the manifest in place, whole."""
        write_json(folder / NAME, self.to_dict())


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a bank.

    Raises:
        MissingInput: There is none.
        CheckpointError: A byte of it has changed, it is of another version, or it has unknown keys.
    """
    path = folder / NAME
    try:
        text = path.read_bytes().decode()
        values = json.loads(text)
        seal = values.pop("sha256", None)
    except FileNotFoundError:
        raise MissingInput(
            f"{folder} is no task bank: it has no {NAME}", "give the folder of a bank, or add a first task"
        ) from None
    except (UnicodeDecodeError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"is not JSON of a bank ({error})") from None
    if values.get("format", FORMAT) != FORMAT:
        raise CheckpointError(
            f"{path} has format {values['format']!r}, and this version reads {FORMAT}",
            UNKNOWN_REMEDY,
        )
    try:
        manifest = Manifest.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise _refused(path, error) from None
    except GraftganError as error:
        raise _damaged(path, f"describes no bank: {error.message}") from None
    if text != json.dumps(manifest.to_dict(), sort_keys=True, indent=2, ensure_ascii=False) + "\n":
        raise _damaged(path, "is not as it was written: a byte of it has changed")
    if not _sealed(values, seal):
        raise _damaged(path, "is not as it was written: its sha256 does not fit")
    return manifest


def _sealed(values: dict[str, Any], seal: object) -> bool:
    try:
        return digest_text(canonical_json(values)) == seal
    except ValueError:
        return False


def _refused(path: Path, error: ValidationError) -> CheckpointError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return CheckpointError(f"{path} has the unknown key {where}", UNKNOWN_REMEDY)
    return _damaged(path, f"is not as it was written: {where + ': ' if where else ''}{first['msg']}")


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} {what}", "bring the file back from a copy of the bank")


def check_task_name(name: str) -> None:
    """Refuse a name that cannot be part of a file name.

    Raises:
        ConfigError: It has other characters than letters, digits, `-` and `_`, or more than 64.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        raise ConfigError(f"{name!r} is no name for a task", "use at most 64 letters, digits, - and _")
