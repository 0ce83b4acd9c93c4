"""The ranking of the sources and the image set as the page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graftgan.reporting.embed import Picture, from_file
from graftgan.reporting.facts import Facts
from graftgan.reporting.numbers import (
    NONE,
    Bar,
    Interval,
    Scale,
    count,
    decimals_for,
    number,
    range_text,
    share,
    text,
)

COLUMNS = ("precision", "density", "coverage", "kid", "fd")
SPLITS = ("train", "validation", "test", "unused")
MOST_NAMED = 12


@dataclass(frozen=True)
class Source:
    """One row of the ranking.

    Attributes:
        raw: Its entry in `ranking.json`.
        chosen: Whether it was chosen.
        worst: Whether it serves as the worst source.
        facts: Domain, training length and so on, in one line.
        recall: Recall.
        interval: Interval of the recall.
        bar: The recall drawn on the scale of the table.
        values: Other measures by name.
        picture: Samples, or None.
    """

    raw: Mapping[str, Any]
    chosen: bool
    worst: bool
    facts: str
    recall: str
    interval: str
    bar: Bar | None
    values: Mapping[str, str]
    picture: Picture | None


def source_rows(facts: Facts) -> list[Source]:
    """Return the rows of the ranking, best first."""
    rows = facts.ranking["rows"]
    recalls = [Interval.of(row.get("recall")) for row in rows]
    scale = Scale.over(recalls)
    places = {name: decimals_for(Interval.of(r.get(name)) for r in rows) for name in COLUMNS}
    return [
        Source(
            raw=row,
            chosen=row["name"] == facts.ranking["choice"].get("name"),
            worst=row["name"] == facts.ranking.get("worst"),
            facts=_describe(row),
            recall=text(recall.value, 3),
            interval=range_text(recall, 3),
            bar=scale.bar(recall),
            values={name: text(Interval.of(row.get(name)).value, places[name]) for name in COLUMNS},
            picture=_samples(row, facts),
        )
        for row, recall in zip(rows, recalls, strict=True)
    ]


def _describe(row: Mapping[str, Any]) -> str:
    domain = row.get("domain") or ""
    words = domain if isinstance(domain, str) else ", ".join(str(word) for word in domain)
    length, weights = number(row.get("kimg")), number(row.get("parameters"))
    parts = [words, f"{length:g} kimg" if length else ""]
    parts += [f"{row['resolution']} px" if row.get("resolution") else ""]
    parts += [f"{weights / 1e6:.2g} M weights" if weights else ""]
    return " · ".join(part for part in parts if part)


def _samples(row: Mapping[str, Any], facts: Facts) -> Picture | None:
    if not row.get("sheet"):
        return None
    folder = facts.folders["ranking"]
    return from_file(folder / str(row["sheet"]), f"samples of {row.get('title') or row['name']}", folder)


@dataclass(frozen=True)
class Share:
    """One split of the image set.

    Attributes:
        name: Name of the split.
        images: Images in it.
        share: Its share in per cent of all images, for drawing.
        missing: Why it is empty, or an empty text.
    """

    name: str
    images: str
    share: float
    missing: str


def splits(facts: Facts) -> list[Share]:
    """Return the splits that have images or a reason to have none."""
    raw, missing = facts.dataset["splits"], facts.dataset.get("missing") or {}
    total = sum(raw.values()) or 1
    return [
        Share(
            name,
            count(raw.get(name, 0)),
            round(100 * raw.get(name, 0) / total, 2),
            str(missing.get(name, "")),
        )
        for name in SPLITS
        if raw.get(name) or name in missing
    ]


def data_facts(facts: Facts) -> list[tuple[str, str]]:
    """Return what is known of the image set, as labels and values."""
    raw = facts.dataset
    duplicates = raw.get("duplicates") or {}
    labels = [str(label) for label in raw.get("labels") or []]
    channels = {1: "grey", 3: "RGB", 4: "RGBA"}.get(raw["channels"], str(raw["channels"]))
    rows = [
        ("Source", str(raw["source"])),
        ("Images", count(raw["images"])),
        ("Packed as", f"{raw['resolution']} × {raw['resolution']} px, {channels}"),
        ("Made square by", str(raw.get("fit") or NONE)),
        ("Resized by", str(raw.get("resize_filter") or NONE)),
        ("Classes", shortened(labels) if labels else "none"),
        (
            "Exact duplicates",
            f"{count(_size(duplicates.get('exact', 0)))} ({_part(duplicates.get('exact'), raw)})",
        ),
        (
            "Near duplicates",
            f"{count(_size(duplicates.get('near', 0)))} ({_part(duplicates.get('near'), raw)})",
        ),
        ("Unreadable files", count(len(raw.get("bad") or []))),
        ("Licence", str(raw.get("licence") or "not stated")),
    ]
    return rows


def _size(found: Any) -> float:
    return float(len(found)) if isinstance(found, list | dict) else number(found) or 0.0


def _part(found: Any, dataset: Mapping[str, Any]) -> str:
    return share(_size(found), number(dataset["images"]) or 0.0)


def shortened(names: list[str], total: int = 0) -> str:
    """Return names joined by commas, the first dozen only, and how many more there are.

    Args:
        names: The names.
        total: How many there are in all, where `names` was cut before.
    """
    shown = names[:MOST_NAMED]
    more = max(total, len(names)) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def observed(found: Any) -> str:
    """Return what a data check found, in words: numbers with at most four digits, lists shortened."""
    if isinstance(found, list):
        return shortened([observed(part) for part in found])
    if isinstance(found, dict):
        return shortened([f"{key}: {observed(part)}" for key, part in found.items()])
    if isinstance(found, float):
        return f"{found:.4g}"
    return NONE if found is None else str(found)
