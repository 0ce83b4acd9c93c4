"""Files of the few tensors that a method trained, without their network; and libraries of such files."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from graftgan.checkpoints.store import SPEC, WEIGHTS, load_gan, prior_tensors, read_tensors, save_tensors
from graftgan.contract import atomic_path, canonical_json, digest_file
from graftgan.errors import CheckpointError, ConfigError, MissingInput
from graftgan.gans.base import Gan
from graftgan.gans.prior import Prior, split_prior

ADAPTER = "adapter.safetensors"
KEY = "adapter"
BASE, TASKS = "base", "tasks"
FIELDS = ("base_sha256", "method", "settings", "spec")
ORIGIN = "origin"
AFTER = "after"


@dataclass(frozen=True)
class Adapter:
    """What turns one base into the averaged generator of one run.

    Attributes:
        base_sha256: Digest of the base's weights file.
        method: Value of `finetune.method`.
        settings: Keys of `finetune` that say where the method puts its tensors.
        spec: The adapted network's sizes, as `GanSpec.to_dict` gives them.
        tensors: What was trained or added, by its name in the generator before it is folded.
        origin: Where it comes from, for people: seed, code version and extractor of its run, how much moved
            and the digest of what stayed; name, licence and format of its base. Empty for what was blended or
            transplanted, and in files from before there was one.
        after: Digests of the files that its factors build on, in their order; see `checkpoints.factors`.
        prior: The law of the run's latents, None for N(0, I), which files from before there was one mean too.
            The base's own law is never the adapter's, as a run drops it.
    """

    base_sha256: str
    method: str
    settings: dict[str, Any]
    spec: dict[str, Any]
    tensors: dict[str, Tensor]
    origin: dict[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    prior: Prior | None = None

    @property
    def values(self) -> int:
        """Number of values in all tensors of the networks."""
        return sum(tensor.numel() for tensor in self.tensors.values())


def write_adapter(adapter: Adapter, path: Path) -> None:
    """Write an adapter; a prior is ``prior.…`` among its tensors, the rest JSON under the key ``adapter``."""
    about = {name: getattr(adapter, name) for name in (*FIELDS, ORIGIN)}
    if adapter.after:
        about[AFTER] = list(adapter.after)
    held = {**adapter.tensors, **prior_tensors(adapter.prior)}
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in held.items()}
    with atomic_path(path) as temporary:
        save_tensors(tensors, temporary, {KEY: canonical_json(about)})


def read_adapter(path: Path) -> Adapter:
    """Read an adapter.

    Raises:
        MissingInput: There is no such file.
        CheckpointError: It is no whole adapter file, or holds a damaged prior or values that are not finite.
    """
    tensors = read_tensors(path)
    about = _about(path)
    bad = [n for n, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if bad:
        raise CheckpointError(
            f"{path} holds values that are not finite in {', '.join(bad[:3])}", "use another file"
        )
    tensors, prior = split_prior(tensors, path)
    return Adapter(tensors=tensors, prior=prior, **about)


def _about(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[KEY])
        about = {ORIGIN: {}, AFTER: [], **about}
        kinds = (str, str, dict, dict, dict, list)
        names = (*FIELDS, ORIGIN, AFTER)
        if set(about) != set(names) or any(
            not isinstance(about[name], kind) for name, kind in zip(names, kinds, strict=True)
        ):
            raise ValueError("its fields are others")
        about[AFTER] = tuple(map(str, about[AFTER]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not an adapter file: {error}", f"give a run's {ADAPTER}") from None
    return dict(about)


def check_base(adapter: Adapter, folder: Path, origin: str) -> None:
    """Refuse a base that the adapter was not trained on.

    Args:
        adapter: The adapter.
        folder: Checkpoint folder of the base.
        origin: What to call the adapter.

    Raises:
        MissingInput: The folder holds no weights.
        CheckpointError: The base's digest is another.
    """
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise MissingInput(f"{weights} does not exist", "give the checkpoint folder of the base")
    if (found := digest_file(weights)) != adapter.base_sha256:
        raise CheckpointError(
            f"{origin} was trained on a base with sha256 {adapter.base_sha256}, {weights} has {found}",
            "give the base that it was trained on; nothing else fits",
        )


def check_name(name: str) -> None:
    """Refuse a name of a task that is none for a file.

    Raises:
        ConfigError: It has other characters than letters, digits, hyphens and underscores.
    """
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
        raise ConfigError(
            f"{name!r} is not a name for a task", "use letters, digits, hyphens and underscores"
        )


class Library:
    """One base and the adapters of any number of tasks: ``base/`` and ``tasks/NAME.safetensors`` in a folder.

    Nothing that is added touches what is there, so that each task stays as it was.

    Args:
        folder: The library.

    Raises:
        MissingInput: There is no base in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (self.base / WEIGHTS).is_file():
            raise MissingInput(
                f"{folder} is not a library: it has no {BASE}/{WEIGHTS}", "make it with a base first"
            )

    @classmethod
    def create(cls, folder: Path, base: Path) -> Library:
        """Make a library of a copy of a base's checkpoint folder and no tasks.

        Raises:
            ConfigError: The folder exists.
            MissingInput: The base lacks its weights or its spec.
        """
        if folder.exists():
            raise ConfigError(
                f"{folder} exists", "name a new folder, or add to the library that is there without a base"
            )
        for name in (WEIGHTS, SPEC):
            if not (base / name).is_file():
                raise MissingInput(f"{base / name} does not exist", "give the checkpoint folder of the base")
        with atomic_path(folder) as temporary:
            (temporary / BASE).mkdir(parents=True)
            (temporary / TASKS).mkdir()
            for name in (WEIGHTS, SPEC):
                shutil.copyfile(base / name, temporary / BASE / name)
        return cls(folder)

    @property
    def base(self) -> Path:
        """Checkpoint folder of the base."""
        return self.folder / BASE

    def names(self) -> list[str]:
        """Return the names of the tasks."""
        return sorted(path.stem for path in (self.folder / TASKS).glob("*.safetensors"))

    def file(self, name: str) -> Path:
        """Return the file of a task.

        Raises:
            ConfigError: The name is not one for a file.
        """
        check_name(name)
        return self.folder / TASKS / f"{name}.safetensors"

    def add(self, name: str, adapter: Path) -> None:
        """Copy an adapter into the library.

        Raises:
            ConfigError: There is a task of this name.
            CheckpointError: The file is no adapter, one of another base, or builds on one that is not there.
        """
        target = self.file(name)
        if target.exists():
            raise ConfigError(f"{self.folder} has a task {name!r}", "use another name, or remove its file")
        found = read_adapter(adapter)
        check_base(found, self.base, str(adapter))
        self.before(found, str(adapter))
        with atomic_path(target) as temporary:
            shutil.copyfile(adapter, temporary)

    def before(self, adapter: Adapter, origin: str) -> list[Adapter]:
        """Return the tasks that an adapter builds on, in their order.

        Raises:
            CheckpointError: One is not in the library.
        """
        if not adapter.after:
            return []
        files = {digest_file(self.file(name)): self.file(name) for name in self.names()}
        if missing := [digest for digest in adapter.after if digest not in files]:
            raise CheckpointError(
                f"{origin} builds on the adapter with sha256 {missing[0]}, which {self.folder} does not have",
                "add the tasks before it first",
            )
        return [read_adapter(files[digest]) for digest in adapter.after]

    def read(self, name: str) -> Adapter:
        """Read the adapter of a task, factors put together.

        Raises:
            ConfigError: There is no such task.
            CheckpointError: Its file is damaged, the base is not the one it was trained on, or a task that
                it builds on is not there.
        """
        path = self.file(name)
        if not path.is_file():
            raise ConfigError(
                f"{self.folder} has no task {name!r}", f"its tasks are {', '.join(self.names()) or 'none'}"
            )
        adapter = read_adapter(path)
        check_base(adapter, self.base, str(path))
        # It reads adapters, which this module defines.
        from graftgan.checkpoints.factors import resolve

        return resolve(adapter, self.before(adapter, str(path)), str(path))

    def load_base(self) -> Gan:
        """Load the base's networks, strictly."""
        return load_gan(self.base)
