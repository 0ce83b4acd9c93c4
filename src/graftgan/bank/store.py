"""A task bank on disk: files of filters that only grow, one file a task, and a manifest that is put in last.

The manifest alone says what the bank holds. A writer leaves the note `pending.json` until the manifest is in
place; who opens a bank with such a note and no writer at work takes back what the dead one left.
"""

from __future__ import annotations

import errno
import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import BaseFileLock, FileLock, Timeout
from torch import Tensor

from graftgan.bank import files
from graftgan.bank.inspection import Finding, inspect_bank
from graftgan.bank.layers import Lambda, free_widths, layer_shapes
from graftgan.bank.manifest import NAME, Layer, Manifest, Task, check_task_name, read_manifest
from graftgan.checkpoints.store import read_tensors, save_tensors
from graftgan.contract import (
    atomic_path,
    canonical_json,
    digest_file,
    digest_text,
    disk_is_full,
    sweep,
    write_json,
)
from graftgan.errors import CheckpointError, ConfigError, MissingInput, TryAgain
from graftgan.gans.translation import TranslatorSpec, build_translator

FILTERS = "filters"
TASKS = "tasks"
PENDING = "pending.json"
LOCK = ".lock"
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class Bank:
    """A folder of tasks that share filters.

    Reading needs no lock: the rows that a manifest counts never change while its tasks are in the bank.

    Args:
        folder: Folder with a manifest; use :meth:`create` for a new one.

    Raises:
        MissingInput: The folder is no bank.
        CheckpointError: The manifest is damaged or of another version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder / LOCK, timeout=0)
        self.manifest = read_manifest(folder)
        if self.unfinished:
            self._repair_if_free()

    @classmethod
    def create(
        cls, folder: Path, spec: TranslatorSpec, share: Lambda = 0.25, lambda_last: float = 1.0
    ) -> Bank:
        """Make a bank without tasks.

        Args:
            folder: Folder to make; it may exist if it is empty.
            spec: The generator of all its tasks.
            share: Lambda of the second and later tasks; see :func:`graftgan.bank.layers.free_widths`.
            lambda_last: Lambda of the last layer where `share` does not name it.

        Raises:
            ConfigError: The folder holds something, the spec is a discriminator's or a lambda is wrong.
        """
        if spec.kind == "patchgan":
            raise ConfigError("a bank holds generators, not discriminators", "use a resnet or a unet")
        if folder.exists() and (not folder.is_dir() or any(map(_foreign, folder.iterdir()))):
            raise ConfigError(f"{folder} exists and is not an empty folder", "name a new folder")
        with torch.device("meta"):
            shapes = layer_shapes(build_translator(spec))
        widths = free_widths(shapes, share, lambda_last)
        layers = tuple(Layer(**vars(s), d=s.d, n_u=widths[s.name]) for s in shapes)
        given = share if isinstance(share, (int, float)) else _plain(share)
        manifest = Manifest(
            arch=spec.kind, spec=spec.to_dict(), share=given, lambda_last=lambda_last, layers=layers
        )
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(FileLock(folder / LOCK, timeout=0), folder):
            if (folder / NAME).exists():
                raise ConfigError(f"{folder} has become a bank meanwhile", "open it")
            manifest.write(folder)
        return cls(folder)

    @property
    def spec(self) -> TranslatorSpec:
        """The generator of all tasks."""
        return TranslatorSpec.from_dict(self.manifest.spec)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks in the order in which they were learnt."""
        return self.manifest.tasks

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The convolutions in the order of the network."""
        return self.manifest.layers

    @property
    def head(self) -> str:
        """Digest of the bank as a new task finds it; scores added to old tasks leave it as it is."""
        widths = {layer.name: layer.n_u for layer in self.layers}
        tasks = [[task.id, task.prefix_sha256] for task in self.tasks]
        return digest_text(canonical_json([self.manifest.spec, widths, tasks]))

    @property
    def unfinished(self) -> bool:
        """Whether a writer is at work, or died at it."""
        return (self.folder / PENDING).exists()

    def task(self, name: str) -> Task:
        """Return a task by its name.

        Raises:
            MissingInput: There is none of that name.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        known = ", ".join(task.name for task in self.tasks) or "no task yet"
        raise MissingInput(f"{self.folder} has no task {name!r}", f"use one of its tasks: {known}")

    def filter_path(self, layer: str) -> Path:
        """Return the file of a layer's filters."""
        return self.folder / FILTERS / f"{layer}.safetensors"

    def rows(self, layer: Layer, upto: int) -> Tensor:
        """Return the filters [m, d] of a layer that the first `upto` tasks made."""
        raw = files.read_rows(self.filter_path(layer.name), layer.d, layer.rows_after(upto))
        return files.to_tensor(raw, layer.d)

    def task_tensors(self, task: Task) -> dict[str, Tensor]:
        """Return the tensors of a task's own file."""
        return read_tensors(self.folder / task.file)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other writers away during the block, and see what the last one wrote.

        Hold it while a task is trained, so that none comes between. The lock of a killed process is void.

        Raises:
            TryAgain: Another process writes to the bank.
            ConfigError: The folder cannot be written.
        """
        with _locked(self._lock, self.folder):
            self.manifest = read_manifest(self.folder)
            self._repair()
            yield

    def append(
        self, name: str, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
    ) -> Task:
        """Add a task: its filters to the files of all layers, its tensors as a file, then the manifest.

        Args:
            name: Name of the new task.
            own: Layer -> the rows that it adds [n_u, d]; all filters [co, d] for the first task.
            tensors: What its own file holds.
            facts: The other fields of :class:`Task`: `data_fingerprint`, `config_hash`, `init`, `outputs`,
                `scores` and `background`.

        Raises:
            ConfigError: The name is taken or no name, or a tensor has a wrong type, shape or value.
            CheckpointError: An earlier task's filters are damaged; nothing was added.
            TryAgain: Another process writes to the bank, or the disk is full.
        """
        with self.alone():
            self.check_new(name)
            self._check_tensors(own, tensors)
            _check_scores(facts["scores"])
            number = len(self.tasks) + 1
            write_json(self.folder / PENDING, {"adding": name})
            task_id = f"{number:04d}-{name}"
            path = self.folder / TASKS / f"{task_id}.safetensors"
            with atomic_path(path) as temporary:
                save_tensors(
                    {key: tensors[key].detach().cpu().contiguous() for key in sorted(tensors)}, temporary
                )
            prefixes = {layer.name: self._grow(layer, own[layer.name]) for layer in self.layers}
            task = Task(
                id=task_id,
                name=name,
                index=number,
                prefix_cols={layer.name: layer.rows_after(number) for layer in self.layers},
                sha256={f"{TASKS}/{path.name}": digest_file(path)},
                prefix_sha256=prefixes,
                tensor_sha256={key: files.tensor_sha256(tensor) for key, tensor in tensors.items()},
                **facts,
            )
            self._commit((*self.tasks, task))
            return task

    def remove(self, name: str) -> None:
        """Take the last task out of the bank.

        Raises:
            MissingInput: There is no such task.
            ConfigError: Later tasks build on it.
        """
        with self.alone():
            task = self.task(name)
            if later := [other.name for other in self.tasks[task.index :]]:
                raise ConfigError(
                    f"{', '.join(later)} {'build' if len(later) > 1 else 'builds'} on the filters of {name}",
                    f"remove {' and '.join(reversed(later))} first, or keep {name}",
                )
            write_json(self.folder / PENDING, {"removing": name})
            # Once the manifest is without the task, its rows and its file are what a dead writer leaves.
            self.manifest = self.manifest.model_copy(update={"tasks": self.tasks[:-1]})
            self.manifest.write(self.folder)
            self._repair()

    def note_scores(self, name: str, scores: Mapping[str, float]) -> None:
        """Write held-out scores beside a task; those of the same names are replaced."""
        with self.alone():
            place = self.task(name).index - 1
            tasks = list(self.tasks)
            merged = {**tasks[place].scores, **{key: float(value) for key, value in scores.items()}}
            _check_scores(merged)
            tasks[place] = tasks[place].model_copy(update={"scores": merged})
            self.manifest = self.manifest.model_copy(update={"tasks": tuple(tasks)})
            self.manifest.write(self.folder)

    def check_new(self, name: str) -> None:
        """Refuse a name that is taken or cannot be a file's.

        Raises:
            ConfigError: See above.
        """
        check_task_name(name)
        if any(task.name == name for task in self.tasks):
            raise ConfigError(f"{self.folder} has a task {name!r}", "choose another name, or remove the task")

    def inspect(self) -> tuple[Finding, ...]:
        """Compare every byte of the bank with the digests of its manifest; see :func:`inspect_bank`."""
        return inspect_bank(self.folder, self.manifest, loose=self.unfinished)

    def _check_tensors(self, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
        number = len(self.tasks) + 1
        for layer in self.layers:
            wanted = (layer.rows_after(number) - layer.rows_after(number - 1), layer.d)
            if layer.name not in own or tuple(own[layer.name].shape) != wanted:
                raise ConfigError(
                    f"the filters of {layer.name} are not {list(wanted)}",
                    "add a task that was begun on this bank",
                )
        for key, tensor in [*own.items(), *tensors.items()]:
            if tensor.is_floating_point() and str(tensor.dtype) != "torch.float32":
                raise ConfigError(
                    f"{key} has type {tensor.dtype}",
                    "keep tasks in float32: halves would change what others read",
                )
            if not bool(tensor.isfinite().all()):
                raise ConfigError(f"{key} holds values that are not finite", "train the task again")

    def _grow(self, layer: Layer, own: Tensor) -> str:
        """Write a layer's file with more rows and return the digest of them all."""
        before, path = len(self.tasks), self.filter_path(layer.name)
        old = files.read_rows(path, layer.d, layer.rows_after(before)) if before else b""
        if before and files.sha256(old) != self.tasks[-1].prefix_sha256[layer.name]:
            message = (
                f"{path}: the filters of {layer.name} have changed since {self.tasks[-1].name} was added"
            )
            raise CheckpointError(message, files.REMEDY)
        new = files.row_bytes(own)
        files.write_rows(path, layer.d, (old, new))
        return files.sha256(old + new)

    def _commit(self, tasks: tuple[Task, ...]) -> None:
        self.manifest = self.manifest.model_copy(update={"tasks": tasks})
        self.manifest.write(self.folder)
        (self.folder / PENDING).unlink()

    def _repair_if_free(self) -> None:
        try:
            with self.alone():
                pass
        except (TryAgain, ConfigError, OSError) as error:
            logging.getLogger("graftgan").debug("%s is left as it is: %s", self.folder, error)

    def _repair(self) -> None:
        """Take back what is on disk but not in the manifest; whoever calls has the lock."""
        if not self.unfinished:
            return
        for part in (FILTERS, TASKS):
            for holder in (self.folder / part).glob(".*"):
                shutil.rmtree(holder)
        kept = {self.folder / task.file for task in self.tasks}
        for path in set((self.folder / TASKS).glob("*.safetensors")) - kept:
            path.unlink()
        for layer in self.layers:
            self._cut(layer)
        (self.folder / PENDING).unlink()

    def _cut(self, layer: Layer) -> None:
        path, wanted = self.filter_path(layer.name), layer.rows_after(len(self.tasks))
        if not wanted:
            path.unlink(missing_ok=True)
            return
        rows = files.read_rows(path, layer.d, wanted)
        if path.stat().st_size != len(files.header(wanted, layer.d)) + len(rows):
            files.write_rows(path, layer.d, (rows,))


@contextmanager
def _locked(lock: BaseFileLock, folder: Path) -> Iterator[None]:
    """Keep other writers away, and remove what a dead one left beside the manifest and the note."""
    try:
        lock.acquire()
    except Timeout:
        message = f"another process is adding to or removing from the bank {folder}"
        raise TryAgain(message, "wait for it to end") from None
    except OSError as error:
        message = f"the bank {folder} cannot be written: {error.strerror}"
        if disk_is_full(error):
            raise TryAgain(message, "free some space and run again") from None
        if error.errno not in FORBIDDEN:
            raise
        raise ConfigError(message, "make the folder writable, or work on a copy") from None
    try:
        for name in (NAME, PENDING):
            sweep(folder / name)
        yield
    finally:
        lock.release()


def _foreign(path: Path) -> bool:
    """Tell whether a path is neither the lock of a bank nor what a killed process left of making one."""
    return path.name != LOCK and not path.name.startswith(f".{NAME}.")


def _check_scores(scores: Mapping[str, float]) -> None:
    if wrong := [name for name, value in scores.items() if not math.isfinite(value)]:
        raise ConfigError(f"the score {wrong[0]} is not a finite number", "leave it out")


def _plain(share: Any) -> list[float] | dict[str, float]:
    if isinstance(share, Mapping):
        return {str(name): float(value) for name, value in share.items()}
    return [float(value) for value in share]
