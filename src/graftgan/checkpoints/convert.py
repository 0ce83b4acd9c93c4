"""Public checkpoints on their way in and out: look at one, import it into this project's form, export it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graftgan.checkpoints.content import open_content
from graftgan.checkpoints.imported import Imported
from graftgan.checkpoints.prior_file import beside
from graftgan.checkpoints.readers import read
from graftgan.checkpoints.store import SPEC, WEIGHTS, assemble, save_tensors
from graftgan.contract import atomic_path, digest_file, read_json, shared_path, write_json
from graftgan.errors import CheckpointError, ConfigError, GraftganError
from graftgan.gans.prior import split_prior
from graftgan.gans.spec import GanSpec

IMPORT = "import.json"
SHOWN = 12


def read_checkpoint(path: Path) -> Imported:
    """Read a checkpoint of any known format, running none of its code.

    Raises:
        MissingInput: There is nothing at `path`.
        CheckpointError: It is damaged, hostile, unknown, or would load in part only.
    """
    imported = read(open_content(path))
    bad = [name for name, tensor in imported.tensors.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise CheckpointError(
            f"{path} holds values that are not finite in {', '.join(bad[:3])}", "use another file"
        )
    return imported


def account(imported: Imported) -> dict[str, Any]:
    """Return what became of every tensor, as plain values: counts of parameters, and names with reasons."""
    counts: dict[str, int] = {}
    for name, tensor in imported.tensors.items():
        network = name.partition(".")[0]
        counts[network] = counts.get(network, 0) + tensor.numel()
    return {
        "format": imported.format,
        "spec": imported.spec.to_dict(),
        "values": counts,
        "loaded": sum(name not in imported.made for name in imported.tensors),
        "made": dict(imported.made),
        "skipped": dict(imported.skipped),
        "absent": list(imported.absent),
        "notes": list(imported.notes),
    }


def describe(path: Path) -> str:
    """Return what a checkpoint holds and what of it would load, for people."""
    facts = account(read_checkpoint(path))
    spec = facts["spec"]
    sizes = ", ".join(f"{key} {value}" for key, value in spec.items() if key != "family")
    lines = [f"{path}: {spec['family']} ({facts['format']})", f"  {sizes}"]
    lines += [f"  {network}: {count:,} values" for network, count in facts["values"].items()]
    lines.append(f"  {facts['loaded']} tensors load")
    lines += [f"  {name} is not in the file" for name in facts["absent"]]
    for title in ("made", "skipped"):
        if listed := facts[title]:
            lines.append(f"  {len(listed)} tensors {title}:")
            lines += [f"    {name}: {reason}" for name, reason in list(listed.items())[:SHOWN]]
            lines += [f"    and {len(listed) - SHOWN} more"] if len(listed) > SHOWN else []
    return "\n".join(lines + [f"  note: {note}" for note in facts["notes"]])


def store_import(path: Path, folder: Path) -> Imported:
    """Write a checkpoint in this project's form: weights, spec, and the account of the import.

    Args:
        path: The public checkpoint.
        folder: Folder to make; nothing is left of it on failure.

    Raises:
        CheckpointError: See `read_checkpoint`.
    """
    imported = read_checkpoint(path)
    with atomic_path(folder) as temporary:
        _write_import(imported, path, temporary)
    return imported


def _write_import(imported: Imported, path: Path, folder: Path) -> None:
    source = {"file": path.name, "sha256": digest_file(path) if path.is_file() else None}
    folder.mkdir()
    save_tensors(_apart(imported), folder / WEIGHTS)
    write_json(folder / SPEC, imported.spec.to_dict())
    made = {"source": source, "weights_sha256": digest_file(folder / WEIGHTS)}
    write_json(folder / IMPORT, {**account(imported), **made})


def _apart(imported: Imported) -> dict[str, Tensor]:
    """Return copies: networks made from one of the file share their memory, which safetensors refuses."""
    return {name: tensor.clone() for name, tensor in imported.tensors.items()}


def import_checkpoint(path: Path, folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Import a checkpoint as a source and return its catalogue entry.

    Args:
        path: The public checkpoint.
        folder: New folder of the source; its name is the name of the entry.
        about: `title`, `licence` and `domain` of the entry.

    Raises:
        ConfigError: The folder exists.
        CheckpointError: See `read_checkpoint`.
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists", "choose another --out, or remove it")
    imported = store_import(path, folder)
    write_json(folder / "card.json", {"name": folder.name, **about, "imported_from": path.name})
    entry = {"name": folder.name, "path": str(folder), "sha256": digest_file(folder / WEIGHTS), **about}
    if isinstance(imported.spec, GanSpec):
        entry["resolution"] = imported.spec.resolution
    return entry


def export_checkpoint(model: Path, kind: str, out: Path) -> tuple[str, ...]:
    """Write a model for use elsewhere and return notes for the user.

    Args:
        model: A checkpoint folder of this project, or any checkpoint that can be read.
        kind: `safetensors`, `onnx`, `torchscript`, or a public layout of `writers.WRITERS`.
        out: File to write; an existing one is replaced, and so is a prior beside it.

    Raises:
        ConfigError: The format is unknown, or cannot hold this network.
        CheckpointError: The model cannot be read, or the exported file does not compute what the model does.
    """
    from graftgan.checkpoints.writers import WRITERS

    traced = {"onnx", "torchscript"}
    if kind not in {*WRITERS, *traced, "safetensors"}:
        known = ", ".join(sorted({*WRITERS, *traced, "safetensors"}))
        raise ConfigError(f"there is no format {kind!r}", f"use one of {known}")
    imported = read_checkpoint(model)
    _, prior = split_prior(imported.tensors, model)
    notes: tuple[str, ...] = ()
    with atomic_path(out) as temporary:
        if kind == "safetensors":
            spec = {"spec": json.dumps(imported.spec.to_dict(), sort_keys=True)}
            save_tensors(_apart(imported), temporary, spec)
            prior = None
        elif kind in traced:
            notes = _trace(imported, kind, model, temporary)
        else:
            notes = tuple(WRITERS[kind](imported.tensors, imported.spec, temporary))
        return (*notes, *beside(prior, out))


def _trace(imported: Imported, kind: str, model: Path, target: Path) -> tuple[str, ...]:
    from graftgan.checkpoints import export

    if not isinstance(imported.spec, GanSpec):
        raise ConfigError(f"{kind} export is for generators of images", "choose another format")
    gan = assemble(imported.spec, imported.tensors, model)
    write = export.export_onnx if kind == "onnx" else export.export_torchscript
    write(gan.generator_ema, target)
    return (f"It computes what the model does, with constant noise, within {export.TOLERANCE:g}.",)


def converted(path: Path, sha256: str, cache: Path) -> Path:
    """Return the folder that holds a public file in this project's form, made once and again if it rots."""
    folder = cache / "imports" / sha256
    if not _is_whole(folder):
        imported = read_checkpoint(path)
        with shared_path(folder, there=lambda: _is_whole(folder)) as temporary:
            _write_import(imported, path, temporary)
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        wanted = read_json(folder / IMPORT)["weights_sha256"]
        return (folder / SPEC).is_file() and digest_file(folder / WEIGHTS) == wanted
    except (GraftganError, KeyError, TypeError, OSError):
        return False
