"""The catalogue of source checkpoints: a YAML list of entries by path or URL, each with its sha256."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from graftgan.checkpoints.convert import converted
from graftgan.checkpoints.downloading import download
from graftgan.checkpoints.store import SPEC, WEIGHTS, load_gan, read_spec
from graftgan.contract import digest_file, shared_path
from graftgan.errors import CheckpointError, ConfigError, MissingInput
from graftgan.gans.base import Gan
from graftgan.gans.spec import GanSpec
from graftgan.remote import is_address, join, local, parent
from graftgan.yamltext import parse_yaml

SCRATCH = "scratch"


class Source(BaseModel):
    """One entry of the catalogue.

    Attributes:
        name: Unique name, used in `rank.sources` and `rank.choose`.
        path: Checkpoint folder, or file of a public format, relative to the catalogue file, or at s3://.
        url: Address (https, s3 or file) of the weights file, with the spec at the same address but for its
            name; or of a file of a public format.
        sha256: Digest of the weights file, or of the public file.
        format: `graftgan`, or `public` for a file that another project wrote.
        images: Number of images it was trained on, if known; `rank` prefers more among equals.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    path: str | None = None
    url: Annotated[str, Field(pattern=r"^(https|file|s3)://")] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    format: Literal["graftgan", "public"] = "graftgan"
    title: str = ""
    domain: list[str] = Field(default_factory=list)
    licence: str = "unknown"
    kimg: float | None = None
    images: Annotated[int, Field(ge=0)] | None = None
    resolution: int
    notes: str = ""

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if (self.path is None) == (self.url is None):
            raise ValueError("give either path or url")
        if self.name == SCRATCH:
            raise ValueError(f"{SCRATCH!r} is reserved for training without a source")
        return self


class Catalogue:
    """The entries of one catalogue file.

    Args:
        path: The YAML file, or its address in an object store.
        cache: Folder of caches, needed for an address.

    Raises:
        MissingInput: If the file does not exist.
        ConfigError: If an entry is wrong, a name occurs twice, or a catalogue in a store names a file of this
            machine.
    """

    def __init__(self, path: Path | str, cache: Path | None = None) -> None:
        self.path = path
        self.sources = _read(local(path, cache) if cache else Path(path))
        if is_address(path):
            _refuse_local_files(path, self.sources)

    def select(self, names: Sequence[str] | None) -> list[Source]:
        """Return the entries called `names`, or all.

        Raises:
            ConfigError: If a name is not in the catalogue.
        """
        if names is None:
            return list(self.sources)
        by_name = {source.name: source for source in self.sources}
        if unknown := [name for name in names if name not in by_name]:
            raise ConfigError(
                f"{unknown[0]!r} is not in {self.path}", f"its sources are {', '.join(by_name)}"
            )
        return [by_name[name] for name in names]

    def folder(self, source: Source, cache: Path) -> Path:
        """Return the checkpoint folder of an entry, fetched, checked by digest, and converted if need be.

        Raises:
            MissingInput: If the file is absent.
            CheckpointError: If its sha256 is not the recorded one.
        """
        if source.format == "public":
            return self._converted(source, cache)
        folder = self.place(source, cache) if source.path else _fetch(source, cache)
        weights = folder / WEIGHTS
        if not weights.is_file():
            raise MissingInput(
                f"source {source.name}: {weights} does not exist", f"correct its path in {self.path}"
            )
        again = "delete the file to fetch it again" if source.url else "fetch the file again"
        _check_digest(source, weights, f"{again}, or correct the entry in {self.path} if you trust it")
        return folder

    def place(self, source: Source, cache: Path) -> Path:
        """Return where the folder or file of an entry with a path lies, fetched if the path is an address."""
        path = str(source.path)
        return local(path if is_address(path) else join(parent(self.path), path), cache)

    def at_hand(self, source: Source, cache: Path) -> bool:
        """Tell whether an entry need not be fetched; whether its files are whole is not looked at."""
        if source.path:
            return not is_address(source.path) and not is_address(self.path)
        fetched = cache / "sources" / source.sha256
        if source.format == "public":
            return fetched.with_name(f"{source.sha256}.public").is_file()
        return (fetched / WEIGHTS).is_file()

    def _converted(self, source: Source, cache: Path) -> Path:
        file = self.place(source, cache) if source.path else _fetch_file(source, cache)
        if not file.is_file():
            raise MissingInput(
                f"source {source.name}: {file} does not exist", f"correct its path in {self.path}"
            )
        _check_digest(source, file, f"correct the entry in {self.path} if you trust the file")
        return converted(file, source.sha256, cache)

    def spec(self, source: Source, cache: Path) -> GanSpec:
        """Return the spec of an entry's networks.

        Raises:
            CheckpointError: If the file is damaged, or its resolution is not the entry's.
        """
        return _of_size(source, read_spec(self.folder(source, cache) / SPEC))

    def load(self, source: Source, cache: Path) -> Gan:
        """Load an entry's networks, strictly.

        Raises:
            CheckpointError: If digest or tensors are not what the entry and the spec say.
        """
        gan = load_gan(self.folder(source, cache))
        _of_size(source, gan.spec)
        return gan


def _read(path: Path) -> list[Source]:
    try:
        raw: Any = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = (
            "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        )
        raise MissingInput(f"catalogue {path} {why}", "correct rank.catalogue") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}", "correct the file") from None
    if not isinstance(raw, list):
        raise ConfigError(f"{path} is not a list of sources", "start each entry with `- name:`")
    sources = []
    for number, entry in enumerate(raw, 1):
        try:
            sources.append(Source.model_validate(entry))
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(str(part) for part in problem["loc"])
            message = f"{path}, entry {number}: {place} {problem['msg']}".replace(":  ", ": ")
            raise ConfigError(message, "correct the entry") from None
    names = [source.name for source in sources]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"{path}: {', '.join(sorted(twice))} occurs twice", "give each source its own name")
    return sources


def _refuse_local_files(path: Path | str, sources: Sequence[Source]) -> None:
    for source in sources:
        if source.url is not None and source.url.startswith("file:"):
            message = f"{path}, source {source.name}: {source.url} is a file of this machine"
            raise ConfigError(message, "in a catalogue at s3://, name files beside it, or https addresses")


def _fetch(source: Source, cache: Path) -> Path:
    assert source.url is not None
    folder = cache / "sources" / source.sha256
    for name, url in ((WEIGHTS, source.url), (SPEC, source.url.rsplit("/", 1)[0] + f"/{SPEC}")):
        if not (folder / name).is_file():
            logging.getLogger("graftgan").info("fetching %s", url)
            with shared_path(folder / name) as temporary:
                download(url, temporary)
                # Checked before it is kept, or every later call would find the wrong file.
                if name == SPEC:
                    read_spec(temporary)
                else:
                    _check_digest(
                        source, temporary, "correct the address, or the sha256 if you trust the file"
                    )
    return folder


def _fetch_file(source: Source, cache: Path) -> Path:
    assert source.url is not None
    file = cache / "sources" / f"{source.sha256}.public"
    if not file.is_file():
        logging.getLogger("graftgan").info("fetching %s", source.url)
        with shared_path(file) as temporary:
            download(source.url, temporary)
            _check_digest(source, temporary, "correct the address, or the sha256 if you trust the file")
    return file


def _check_digest(source: Source, weights: Path, remedy: str) -> None:
    if (found := digest_file(weights)) != source.sha256:
        place = weights if source.path else source.url
        message = f"source {source.name}: {place} has sha256 {found}, not {source.sha256}"
        raise CheckpointError(message, remedy)


def _of_size(source: Source, spec: GanSpec) -> GanSpec:
    if spec.resolution != source.resolution:
        message = f"source {source.name} makes images of {spec.resolution} px, not {source.resolution}"
        raise CheckpointError(message, "correct the resolution in the catalogue")
    return spec
