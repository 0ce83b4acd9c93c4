"""Reads, checks, splits and packs the image set."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from graftgan.config import Data, Params
from graftgan.context import Context
from graftgan.contract import Outcome, digest_file
from graftgan.data import validation
from graftgan.data.checking import checking
from graftgan.data.dataset import IMAGES_FILE, SPLITS, content_digest, write_manifest
from graftgan.data.decoding import DecodeOptions
from graftgan.data.duplicates import Duplicates, find_duplicates
from graftgan.data.importing import open_source
from graftgan.data.packing import Packed, pack_all
from graftgan.data.slots import PixelWriter
from graftgan.data.sources import Source, label_order
from graftgan.data.splitting import Assignment, assign
from graftgan.errors import DataError
from graftgan.remote import local

SHOWN_BAD = 10
# From here on, decoding takes so long that the library for the checks is ready before it ends.
APART_IMAGES = 2000


@dataclass(frozen=True)
class _Collected:
    """All good images without their pixels, and the names of the bad with the reason."""

    good: list[Packed]
    bad: list[dict[str, str]]


def run(inputs: Mapping[str, Path], params: Params, outputs: Mapping[str, Path], ctx: Context) -> Outcome:
    """Read, check, split and pack the image set that `data.path` names.

    Args:
        inputs: None.
        params: Uses `data` and `runtime.workers`.
        outputs: `dataset`, which `graftgan.data.dataset.ImageSet` reads, and `data_docs`.
        ctx: Progress, tracker and state; the Data Docs of a failure are kept in the state folder.

    Raises:
        MissingInput: If there is nothing at `data.path`.
        DataError: If the image set is unreadable, unsafe, or fails an expectation.
        TryAgain: If a decoding process was killed.
    """
    data = params.data
    path = local(data.path, ctx.cache)
    source = open_source(path, data.max_file_bytes)
    folder, docs = outputs["dataset"], outputs["data_docs"]
    apart = params.runtime.workers > 1 and source.total >= APART_IMAGES
    with checking(docs, ctx.log, apart) as begin:
        collected = _pack(source, data, folder / IMAGES_FILE, params.runtime.workers, ctx)
        _refuse_bad(path, collected, source.total, data)
        pixels = np.load(folder / IMAGES_FILE, mmap_mode="r")
        duplicates = find_duplicates(
            [i.sha256 for i in collected.good],
            [i.phash for i in collected.good],
            pixels,
            data.near_duplicate_bits,
        )
        split = _split(collected.good, duplicates, data)
        labels = label_order(i.label for i in collected.good if i.label is not None)
        manifest = _manifest(collected.good, labels, duplicates, split)
        finish = begin(*_checks(manifest, collected, source.total, data))
        facts = _facts(path, source, data, collected, labels, duplicates, split, manifest)
        read = {"dataset": {IMAGES_FILE: digest_file(folder / IMAGES_FILE)}}
        checked = finish()
    _refuse_failed(checked, data, docs, ctx)
    warnings = _warnings(source, collected, duplicates, split, data)
    told = {"expectations": validation.to_facts(checked), "warnings": list(warnings)}
    write_manifest(folder, manifest, facts | told)
    return replace(_report(facts, collected, warnings, ctx), digests=read)


def _pack(source: Source, data: Data, target: Path, workers: int, ctx: Context) -> _Collected:
    collected = _Collected([], [])
    task = ctx.progress.task("prepare", source.total)
    try:
        with PixelWriter(target, data.resolution, data.channels) as writer:
            writer.expect(source.total)
            options, kept = DecodeOptions.of(data), []
            with closing(pack_all(source.images(), source.total, options, writer.slots, workers)) as stream:
                for index, packed in enumerate(stream):
                    task.advance(1)
                    if packed.bad:
                        collected.bad.append({"name": packed.name, "reason": packed.bad})
                    else:
                        collected.good.append(packed)
                        kept.append(index)
            writer.keep(kept)
    finally:
        task.close()
    return collected


def _refuse_bad(path: Path, collected: _Collected, total: int, data: Data) -> None:
    bad = collected.bad
    lines = "".join(f"\n  {entry['name']!r}: {entry['reason']}" for entry in bad[:SHOWN_BAD])
    more = f"\n  and {len(bad) - SHOWN_BAD} more" if len(bad) > SHOWN_BAD else ""
    if not collected.good:
        raise DataError(
            f"{path}: none of {total} images is usable{lines}{more}", "give whole images as data.path"
        )
    if bad and data.on_bad_image == "fail":
        raise DataError(
            f"{path}: {len(bad)} of {total} images are unusable{lines}{more}",
            "mend or remove them, or set data.on_bad_image: skip",
        )


def _split(good: Sequence[Packed], duplicates: Duplicates, data: Data) -> Assignment:
    return assign(
        [image.sha256 for image in good],
        [image.group for image in good],
        duplicates,
        data.split,
        data.seed,
        data.train_images,
    )


def _manifest(
    good: Sequence[Packed], labels: Sequence[str], duplicates: Duplicates, split: Assignment
) -> pd.DataFrame:
    numbers: dict[str | None, int] = {label: number for number, label in enumerate(labels)}
    return pd.DataFrame(
        {
            "row": np.arange(len(good), dtype=np.int32),
            "name": [image.name for image in good],
            "split": split.split,
            "label": np.array([numbers.get(image.label, -1) for image in good], dtype=np.int32),
            "sha256": [image.sha256 for image in good],
            "width": np.array([image.width for image in good], dtype=np.int32),
            "height": np.array([image.height for image in good], dtype=np.int32),
            "mode": [image.mode for image in good],
            "group": [image.group for image in good],
            "phash": [image.phash for image in good],
            "duplicate_of": duplicates.duplicate_of,
            "near_group": duplicates.near_group,
            "blank": [image.blank for image in good],
        }
    )


def _checks(
    manifest: pd.DataFrame, collected: _Collected, total: int, data: Data
) -> tuple[dict[str, pd.DataFrame], list[validation.Expectation]]:
    rows = np.arange(len(manifest))
    exact = manifest["duplicate_of"] >= 0
    images = manifest[["name", "sha256", "split", "label", "width", "height", "mode", "blank"]].assign(
        side=manifest[["width", "height"]].min(axis=1),
        duplicate=exact,
        near_duplicate=(manifest["near_group"] != rows) & ~exact,
    )
    imbalance, rare = _label_balance(manifest[~exact])
    facts = {
        "bad_share": len(collected.bad) / total,
        "label_imbalance": imbalance,
        "channels": data.channels,
        "resolution": data.resolution,
    }
    tables = {"images": images, "facts": pd.DataFrame([facts])}
    return tables, validation.expectations(data, [entry["name"] for entry in collected.bad], rare)


def _refuse_failed(checked: Sequence[validation.Checked], data: Data, docs: Path, ctx: Context) -> None:
    if not all(c.success for c in checked):
        kept = ctx.state / "data_docs"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(docs, kept)
        validation.raise_failed(Path(data.path), checked, kept)


def _label_balance(distinct: pd.DataFrame) -> tuple[float, list[str]]:
    """Return the ratio of the most to the least frequent label, and the images with the latter."""
    labelled = distinct[distinct["label"] >= 0]
    counts = labelled["label"].value_counts()
    if len(counts) < 2:
        return 1.0, []
    rarest = counts.index[counts == counts.min()]
    rare = labelled.loc[labelled["label"].isin(rarest), "name"]
    return float(counts.max() / counts.min()), [str(name) for name in rare]


def _facts(
    path: Path,
    source: Source,
    data: Data,
    collected: _Collected,
    labels: list[str],
    duplicates: Duplicates,
    split: Assignment,
    manifest: pd.DataFrame,
) -> dict[str, Any]:
    return {
        "digest": content_digest(manifest, data.resolution, data.channels, labels),
        "source": path.name,
        "images": len(collected.good),
        "splits": {name: split.count(name) for name in SPLITS},
        "resolution": data.resolution,
        "channels": data.channels,
        "labels": labels,
        "missing": dict(split.missing),
        "bad": collected.bad,
        "ignored": source.ignored,
        "duplicates": {"exact": duplicates.exact, "near": int(duplicates.near_rows.sum())},
        "licence": source.licence,
        "fit": data.fit,
        "resize_filter": data.resize_filter,
        "background": data.background,
    }


def _warnings(
    source: Source, collected: _Collected, duplicates: Duplicates, split: Assignment, data: Data
) -> tuple[str, ...]:
    warnings = [*source.warnings, *split.warnings]
    if collected.bad:
        first = collected.bad[0]
        warnings.append(
            f"{len(collected.bad)} images were skipped, such as {first['name']!r}: {first['reason']}"
        )
    if duplicates.broken_up:
        warnings.append(
            f"{len(duplicates.broken_up)} chains of near duplicates were cut, the longest of "
            f"{max(duplicates.broken_up)} images; what would straddle the split is unused"
        )
    small = sum(min(image.width, image.height) < data.resolution for image in collected.good)
    if small:
        warnings.append(f"{small} images are smaller than {data.resolution} pixels and were enlarged")
    return tuple(warnings)


def _report(
    facts: Mapping[str, Any], collected: _Collected, warnings: tuple[str, ...], ctx: Context
) -> Outcome:
    metrics = {
        "images": facts["images"],
        **facts["splits"],
        "bad": len(collected.bad),
        "ignored": facts["ignored"],
        "duplicates": facts["duplicates"]["exact"],
        "near_duplicates": facts["duplicates"]["near"],
        "blank": sum(image.blank for image in collected.good),
        "labels": len(facts["labels"]),
        "resolution": facts["resolution"],
        "channels": facts["channels"],
    }
    metrics = {name: float(value) for name, value in metrics.items()}
    ctx.tracker.log_metrics(metrics)
    return Outcome(metrics, warnings)
