"""The schema of `params.yaml`: types, ranges and help texts; unknown keys are errors with a suggestion."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from graftgan.contract import canonical_json, digest_text
from graftgan.errors import ConfigError, MissingInput
from graftgan.yamltext import parse_yaml

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of all sections: frozen, and closed to unknown keys, infinities and truth values as numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("is neither true nor false")
        return value


class Split(Section):
    """Shares of the images for choosing checkpoints and for final scores; the rest trains."""

    validation: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.1, description="Share of images that choose the checkpoint."
    )
    test: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.2, description="Share of images kept for the final scores."
    )

    @model_validator(mode="after")
    def _leave_training(self) -> Split:
        if self.validation + self.test >= 1.0:
            raise ValueError("validation and test together leave no training images")
        return self


class Expectations(Section):
    """What the manifest must satisfy; Great Expectations checks it and builds the Data Docs."""

    min_images: Count = Field(10, description="Fewest good images, after bad ones are dropped.")
    max_images: Count = Field(1_000_000, description="Most images.")
    min_side_px: Count = Field(16, description="Shortest allowed side of an original image, in pixels.")
    max_bad_share: Fraction = Field(
        0.2, description="Largest share of unreadable files, with on_bad_image: skip."
    )
    max_duplicate_share: Fraction = Field(0.1, description="Largest share of exact duplicates.")
    max_near_duplicate_share: Fraction = Field(0.5, description="Largest share of near duplicates.")
    max_blank_share: Fraction = Field(0.01, description="Largest share of images of a single colour.")
    max_label_imbalance: Annotated[float, Field(ge=1.0)] = Field(
        20.0, description="Largest ratio of the most to the least frequent label."
    )


class Data(Section):
    """The image set and how it is packed."""

    path: str = Field(
        "data/micah.parquet",
        description="Folder, zip, StyleGAN2-ADA dataset zip, or parquet file with an image column.",
    )
    resolution: Literal[32, 64, 128, 256, 512, 1024] = Field(32, description="Working resolution in pixels.")
    channels: Literal[1, 3, 4] = Field(3, description="1 grey, 3 RGB, 4 RGBA.")
    fit: Literal["crop", "pad", "stretch"] = Field(
        "crop", description="How a non-square image becomes square."
    )
    resize_filter: Literal["box", "bicubic", "lanczos"] = Field(
        "lanczos", description="Antialiasing filter; box is exact averaging for whole ratios."
    )
    background: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] = Field(
        "#ffffff", description="Colour behind transparent pixels."
    )
    on_bad_image: Literal["fail", "skip"] = Field("fail", description="What an unreadable file does.")
    seed: int = Field(0, ge=0, description="Seed of the split.")
    split: Split = Field(default_factory=Split, description="Shares of the split.")
    train_images: Count | None = Field(None, description="Use only so many training images; null means all.")
    near_duplicate_bits: int = Field(
        6, ge=0, le=16, description="Perceptual hashes closer than this many bits are near duplicates."
    )
    max_pixels: Count = Field(100_000_000, description="Images with more pixels are refused as bombs.")
    max_file_bytes: Count = Field(200_000_000, description="Files larger than this are refused.")
    expectations: Expectations = Field(default_factory=Expectations, description="Checks of the manifest.")


class Rank(Section):
    """How the source checkpoint is chosen."""

    catalogue: str = Field("zoo/catalogue.yaml", description="File that lists the source checkpoints.")
    sources: list[str] | None = Field(None, description="Names to rank; null means the whole catalogue.")
    choose: str = Field("recommended", description="recommended, the name of a source, or scratch.")
    samples: Annotated[int, Field(ge=10)] = Field(1000, description="Images sampled from each source.")
    neighbours: Count = Field(
        10, description="k of the k-th neighbour radius; at 3, samples of small sources cover nothing."
    )
    extractor: str = Field("efflite0", description="Feature extractor.")
    seed: int = Field(0, ge=0, description="Seed of the samples.")
    low_recall: Fraction = Field(0.05, description="Warn when no source reaches this recall.")


class Budget(Section):
    """When training ends: whichever of the given limits is reached first."""

    kimg: Positive | None = Field(None, description="Thousands of real images shown to D.")
    epochs: Positive | None = Field(None, description="Passes over the training images.")
    minutes: Positive | None = Field(None, description="Wall-clock minutes; not reproducible.")

    @model_validator(mode="after")
    def _one_given(self) -> Budget:
        if self.kimg is None and self.epochs is None and self.minutes is None:
            raise ValueError("give at least one of kimg, epochs, minutes")
        return self


class Network(Section):
    """Widths of a network trained from scratch; an adapted one takes its source's."""

    z_dim: Count = Field(128, description="Latent size.")
    w_dim: Count = Field(128, description="Size of the intermediate latent.")
    mapping_layers: Count = Field(2, description="Layers of the mapping network.")
    channel_base: Count = Field(
        1024, description="Width at resolution r is min(channel_base / r, channel_max)."
    )
    channel_max: Count = Field(64, description="Largest width.")


class Finetune(Section):
    """How the chosen source is adapted."""

    method: str = Field("full", description="Transfer method; `graftgan config methods` lists them.")
    budget: Budget = Field(default_factory=lambda: Budget(kimg=24.0), description="Length of training.")
    controls: tuple[Literal["worst", "scratch"], ...] = Field(
        ("worst", "scratch"),
        description="Runs at the same budget beside the chosen one.",
    )
    seed: int = Field(0, ge=0, description="Seed of initialisation, latents, augmentation and data order.")
    batch: Annotated[int, Field(ge=2)] = Field(32, description="Images a step.")
    lr_generator: Positive = Field(0.0015, description="Adam learning rate of G.")
    lr_discriminator: Positive = Field(0.0015, description="Adam learning rate of D.")
    lr_cooldown: Fraction = Field(
        0.3,
        description="Last share of the budget over which both learning rates fall to zero; 0 is none.",
    )
    r1_gamma: Annotated[float, Field(ge=0.0)] = Field(
        0.1, description="R1 weight, in the gamma/2 convention."
    )
    r1_interval: Count = Field(16, description="R1 is applied every so many D steps, and scaled by it.")
    path_length_weight: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="Path length weight; 0 turns it off."
    )
    path_length_interval: Count = Field(4, description="Path length is applied every so many G steps.")
    style_mixing: Fraction = Field(0.0, description="Probability that a sample mixes two styles.")
    ema_half_life_kimg: Positive = Field(2.0, description="Half-life of the averaged generator.")
    gradient_clip: Positive | None = Field(
        None, description="Largest gradient norm; null leaves gradients alone."
    )
    flip: bool = Field(True, description="Mirror half of the real images.")
    augment: Literal["none", "ada", "diffaugment"] = Field("ada", description="What D sees.")
    ada_target: Fraction = Field(0.6, description="Target of ADA's over-fitting signal.")
    ada_speed_kimg: Positive = Field(100.0, description="Images in which ADA's p can go from 0 to 1.")
    ada_p_max: Fraction = Field(0.85, description="Largest p of ADA.")
    freeze_d_layers: Annotated[int, Field(ge=0)] = Field(
        4, description="With method freeze_d: D's layers from the image side that stay fixed (4, 7, 10, ...)."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto is bf16 where the device computes in it, else fp32."
    )
    evaluate_every_kimg: Positive = Field(
        6.0, description="KID on the validation images, every so many kimg."
    )
    validation_samples: Annotated[int, Field(ge=16)] = Field(256, description="Samples for that KID.")
    validation_extractor: str = Field("efflite0-128", description="Feature extractor for that KID.")
    scratch: Network = Field(default_factory=Network, description="Network of the scratch run.")


class Evaluate(Section):
    """The final scores, on test images."""

    extractor: str = Field(
        "efflite0", description="efflite0, efflite0-128, inception, onnx:PATH or torchscript:PATH."
    )
    samples: Annotated[int, Field(ge=16)] = Field(1000, description="Images sampled from each model.")
    max_test_images: Annotated[int, Field(ge=16)] = Field(5000, description="Most test images used.")
    neighbours: Count = Field(5, description="k of density and coverage.")
    recall_neighbours: Count = Field(3, description="k of precision and recall.")
    truncation_psi: Fraction = Field(1.0, description="Truncation; 1 is none, the honest setting.")
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = Field(0.95, description="Level of the intervals.")
    seed: int = Field(0, ge=0, description="Seed of the samples.")


class Report(Section):
    """The HTML report."""

    title: str = Field("GraftGAN report", description="Heading of the report.")
    grid: Annotated[int, Field(ge=2, le=12)] = Field(8, description="Columns of the sample sheets.")


class Gate(Section):
    """When the new model takes the champion's place."""

    mode: Literal["off", "dry-run", "enforce"] = Field("enforce", description="off always promotes.")
    min_gain: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="KID the new model must gain at least, beyond the interval."
    )


class Registry(Section):
    """The model registry."""

    name: str = Field("graftgan", description="Registered model name.", pattern=r"^[A-Za-z0-9][\w.-]*$")
    gate: Gate = Field(default_factory=Gate, description="Champion gate.")


class Track(Section):
    """Where runs are logged. Never affects results."""

    mode: Literal["off", "journal", "live"] = Field("live", description="journal writes now and syncs later.")
    uri: str = Field("sqlite:///.graftgan/mlflow.db", description="MLflow tracking and registry URI.")
    artifacts: str = Field(".graftgan/mlartifacts", description="Artifact folder of a local store.")
    experiment: str = Field("graftgan", description="MLflow experiment.")
    timeout_s: Positive = Field(4.0, description="Longest wait for the server before runs are journalled.")
    system_metrics: bool = Field(True, description="Log CPU, memory and GPU use.")


class Runtime(Section):
    """How stages run on this machine. Never tracked by DVC."""

    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    inception_weights: str | None = Field(
        None, description="File of the official FID weights; null searches."
    )
    threads: Count = Field(1, description="CPU threads a process; results are exact for equal numbers only.")
    workers: Count = Field(2, description="Processes for independent runs and for decoding.")
    compile: bool = Field(False, description="torch.compile the networks outside the penalty phases.")
    keep_states: Count = Field(2, description="Training states kept for resuming.")
    save_every_s: Positive = Field(60.0, description="Seconds between training states.")


class Params(Section):
    """All of `params.yaml`."""

    data: Data = Field(default_factory=Data)
    rank: Rank = Field(default_factory=Rank)
    finetune: Finetune = Field(default_factory=Finetune)
    evaluate: Evaluate = Field(default_factory=Evaluate)
    report: Report = Field(default_factory=Report)
    registry: Registry = Field(default_factory=Registry)
    track: Track = Field(default_factory=Track)
    runtime: Runtime = Field(default_factory=Runtime)


def section_of(annotation: Any) -> type[Section] | None:
    """Return the section class that an annotation names, if it names one."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return next((s for a in get_args(annotation) if (s := section_of(a))), None)
    return None


def keys(model: type[Section] = Params, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every dotted key below `model`, sections before their leaves."""
    for name, info in model.model_fields.items():
        yield prefix + name, info
        if section := section_of(info.annotation):
            yield from keys(section, f"{prefix}{name}.")


def find(key: str) -> FieldInfo:
    """Return the field of a dotted key.

    Raises:
        ConfigError: If there is none; the message suggests the nearest keys.
    """
    known = dict(keys())
    if key not in known:
        raise ConfigError(f"unknown key {key!r}", suggest(key, list(known)))
    return known[key]


def suggest(key: str, known: Sequence[str]) -> str:
    """Return a remedy that names the keys most like `key`."""
    leaf = key.rsplit(".", 1)[-1]
    near = [k for k in known if k.startswith(key) and k != key]
    near += [k for k in difflib.get_close_matches(key, known, 3, 0.75) if k not in near]
    near += [k for k in known if k.rsplit(".", 1)[-1] == leaf and k not in near]
    if near:
        return f"did you mean {', '.join(near[:3])}?"
    return "`graftgan config show` lists all keys"


def parse_set(assignment: str) -> tuple[str, Any]:
    """Split `key=value`; the value is YAML.

    Raises:
        ConfigError: If there is no `=`, the key is unknown or the value is not YAML.
    """
    key, equals, text = assignment.partition("=")
    if not equals:
        raise ConfigError(f"--set {assignment!r} has no '='", "write --set key=value")
    find(key.strip())
    try:
        return key.strip(), parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of --set {key} is not YAML: {error}", "quote it") from None


def override(raw: dict[str, Any], key: str, value: Any) -> None:
    """Put `value` at the dotted `key` of a nested dictionary, making sections on the way."""
    *sections, leaf = key.split(".")
    for name in sections:
        child = raw.get(name)
        raw[name] = raw = child if isinstance(child, dict) else {}
    raw[leaf] = value


def resolve(raw: dict[str, Any], origin: str) -> Params:
    """Check a nested dictionary against the schema.

    Raises:
        ConfigError: Naming every wrong key, with suggestions for unknown ones.
    """
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        known = [key for key, _ in keys()]
        lines, remedies = [], []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"] if isinstance(part, str))
            if problem["type"] == "extra_forbidden":
                lines.append(f"unknown key {key!r}")
                remedies.append(suggest(key, known))
            else:
                lines.append(f"{key or 'top level'}: {problem['msg']} (given {problem['input']!r})")
                remedies.append(
                    f"`graftgan config explain {key}` tells what it takes" if key else "correct the key"
                )
        remedy = " ".join(dict.fromkeys(remedies))
        raise ConfigError(f"{origin}: " + "; ".join(lines), remedy) from None


def load(path: Path | None, assignments: Sequence[str] = ()) -> Params:
    """Read `params.yaml` and apply `key=value` assignments.

    Args:
        path: The file; None means the defaults alone.
        assignments: `key=value` texts, later ones win.

    Raises:
        MissingInput: If the file does not exist.
        ConfigError: If it is not YAML, or does not fit the schema.
    """
    raw: Any = {}
    if path is not None:
        try:
            raw = parse_yaml(path.read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            raise MissingInput(f"{path} does not exist", "give the file with --params") from None
        except (IsADirectoryError, PermissionError) as error:
            raise MissingInput(
                f"{path} cannot be read: {error.strerror}", "give the file with --params"
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not YAML: {error}", "correct the file") from None
        if not isinstance(raw, dict):
            raise ConfigError(f"{path} holds a {type(raw).__name__}, not a mapping", "start it with `data:`")
    for assignment in assignments:
        override(raw, *parse_set(assignment))
    return resolve(raw, str(path or "defaults"))


def loads(text: str, assignments: Sequence[str] = ()) -> Params:
    """Read the canonical JSON that a pipeline passes instead of a file, and apply `key=value` assignments.

    Raises:
        ConfigError: If it is not JSON, or does not fit the schema.
    """
    try:
        raw = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        remedy = "pass the output of `graftgan config show --json`"
        raise ConfigError(f"the configuration text is not JSON: {error}", remedy) from None
    if not isinstance(raw, dict):
        raise ConfigError("the configuration text is not a JSON object", "start it with {")
    for assignment in assignments:
        override(raw, *parse_set(assignment))
    return resolve(raw, "configuration text")


def explain(key: str) -> str:
    """Return what a key means, takes and defaults to.

    Raises:
        ConfigError: If there is no such key.
    """
    info = find(key)
    section = section_of(info.annotation)
    lines = [key, f"  {info.description or (section and section.__doc__) or ''}"]
    if section:
        lines += [f"  {key}.{name}: {child.description}" for name, child in section.model_fields.items()]
        return "\n".join(lines)
    parent, _, leaf = key.rpartition(".")
    owner = section_of(find(parent).annotation) if parent else Params
    schema = (owner or Params).model_json_schema()["properties"][leaf]
    facts = {name: value for name, value in schema.items() if name not in ("description", "title")}
    return "\n".join([*lines, *(f"  {name}: {json.dumps(value)}" for name, value in facts.items())])


def leaves(params: Params, selected: Sequence[str]) -> dict[str, Any]:
    """Return the leaves under the dotted `selected` keys as a flat dictionary."""
    flat = flatten(params.model_dump(mode="json"))
    return {k: v for k, v in flat.items() if any(k == s or k.startswith(f"{s}.") for s in selected)}


def flatten(raw: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested dictionary with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in raw.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def config_digest(params: Params, selected: Sequence[str]) -> str:
    """Return the sha256 of the canonical JSON of the selected leaves."""
    return digest_text(canonical_json(leaves(params, selected)))
