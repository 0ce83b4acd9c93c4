"""What the manifest must satisfy, checked by Great Expectations, or by pandas where that is not installed."""

from __future__ import annotations

import gc
import html
import importlib
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pandas as pd

from graftgan.config import Data, Expectations
from graftgan.data.dataset import SPLITS
from graftgan.errors import DataError

LIBRARY = "great_expectations"
# All of them, one a line, beside the pages of a failed check.
OFFENDING = "offending.txt"
MAX_OFFENDING = 50
SHOWN_OFFENDING = 5
Kind = Literal["row_count", "between", "in_set", "unique", "matches"]
Scalar = int | float | str | bool


@dataclass(frozen=True)
class Expectation:
    """One thing that must hold, in words that both engines understand.

    Attributes:
        name: Name of the check, and the key under `data.expectations` if it has one.
        what: The sentence that must be true.
        table: "images" has a row an image, "facts" a single row.
        kind: row_count and between take `low` and `high`, in_set takes `allowed`, matches takes `pattern`.
        column: The column; empty for row_count.
        low: Least value.
        high: Largest value.
        allowed: Allowed values.
        pattern: Regular expression of the whole value.
        mostly: Share of the rows that must satisfy it.
        offending: Images to name where the table cannot tell them.
    """

    name: str
    what: str
    table: Literal["images", "facts"]
    kind: Kind
    column: str = ""
    low: float | None = None
    high: float | None = None
    allowed: tuple[Scalar, ...] = ()
    pattern: str = ""
    mostly: float = 1.0
    offending: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checked:
    """The outcome of one expectation.

    Attributes:
        expectation: Name of the check.
        what: The sentence that must be true.
        success: Whether it is.
        observed: A value, or a sentence on the share of the rows.
        offending: All images that do not satisfy it.
    """

    expectation: str
    what: str
    success: bool
    observed: str
    offending: list[str] = field(default_factory=list)


def expectations(data: Data, bad: Sequence[str], rare_labels: Sequence[str]) -> list[Expectation]:
    """Return the expectations of a configuration.

    Args:
        data: The data section.
        bad: Names of the unreadable files.
        rare_labels: Names of images with the least frequent label.
    """
    return [*_of_images(data.expectations), *_of_facts(data, bad, rare_labels)]


def _of_images(want: Expectations) -> list[Expectation]:
    least, most = want.min_images, want.max_images

    def share(name: str, column: str, limit: float, thing: str) -> Expectation:
        what = f"at most {limit:.4g} of the images are {thing}"
        return Expectation(
            name, what, "images", "in_set", column, allowed=(False,), mostly=round(1.0 - limit, 12)
        )

    return [
        Expectation("min_images", f"at least {least} images", "images", "row_count", low=least),
        Expectation("max_images", f"at most {most} images", "images", "row_count", high=most),
        Expectation(
            "min_side_px",
            f"the shorter side of every original is at least {want.min_side_px} pixels",
            "images",
            "between",
            "side",
            low=want.min_side_px,
        ),
        share("max_duplicate_share", "duplicate", want.max_duplicate_share, "exact duplicates of others"),
        share(
            "max_near_duplicate_share",
            "near_duplicate",
            want.max_near_duplicate_share,
            "near duplicates of others",
        ),
        share("max_blank_share", "blank", want.max_blank_share, "of a single colour"),
        Expectation("unique_names", "every image has its own name", "images", "unique", "name"),
        Expectation(
            "sha256",
            "every image has a content hash",
            "images",
            "matches",
            "sha256",
            pattern="^[0-9a-f]{64}$",
        ),
        Expectation("split", "every image is in a known split", "images", "in_set", "split", allowed=SPLITS),
    ]


def _of_facts(data: Data, bad: Sequence[str], rare_labels: Sequence[str]) -> list[Expectation]:
    want = data.expectations
    return [
        Expectation(
            "max_bad_share",
            f"at most {want.max_bad_share:.4g} of the files are unreadable",
            "facts",
            "between",
            "bad_share",
            high=want.max_bad_share,
            offending=tuple(bad),
        ),
        Expectation(
            "max_label_imbalance",
            f"no label has more than {want.max_label_imbalance:.4g} times the images of another",
            "facts",
            "between",
            "label_imbalance",
            high=want.max_label_imbalance,
            offending=tuple(rare_labels),
        ),
        Expectation(
            "channels",
            f"images are packed with {data.channels} channels",
            "facts",
            "in_set",
            "channels",
            allowed=(data.channels,),
        ),
        Expectation(
            "resolution",
            f"images are packed at {data.resolution} pixels",
            "facts",
            "in_set",
            "resolution",
            allowed=(data.resolution,),
        ),
    ]


def check(
    tables: Mapping[str, pd.DataFrame], wanted: Sequence[Expectation], docs: Path, log: logging.Logger
) -> list[Checked]:
    """Check all expectations and write pages that people can read.

    Args:
        tables: "images" with a row an image and a column `name`, and "facts" with one row.
        wanted: The expectations.
        docs: Existing folder for the pages; `index.html` is the first.
        log: Told when Great Expectations is not installed.

    Returns:
        One outcome for each expectation, in their order.
    """
    if importlib.util.find_spec(LIBRARY) is None:
        log.warning(
            "great_expectations is not installed: pandas checks the data; `pip install graftgan[validate]`"
        )
        checked = [check_with_pandas(tables[e.table], e) for e in wanted]
        (docs / "index.html").write_text(plain_page(checked), encoding="utf-8")
        return checked
    checked = engine().check(tables, wanted, docs)
    return list(checked)


def engine() -> ModuleType:
    """Import what runs Great Expectations, which takes seconds and 265 MB; nothing does before the check."""
    looks = gc.isenabled()
    # A fifth of those seconds would go into looking for garbage.
    gc.disable()
    try:
        return importlib.import_module("graftgan.data.gx")
    finally:
        if looks:
            gc.enable()


def check_with_pandas(table: pd.DataFrame, wanted: Expectation) -> Checked:
    """Check one expectation without Great Expectations, with the same outcome."""
    if wanted.kind == "row_count":
        return outcome(wanted, _inside(len(table), wanted), len(table), 1, [])
    values = table[wanted.column]
    good = _good(values, wanted)
    names = [str(name) for name in table["name"][~good]] if "name" in table else []
    single = values.iloc[0] if wanted.table == "facts" else None
    success = bool(good.mean() >= wanted.mostly) if len(good) else True
    return outcome(wanted, success, single, len(table), names)


def _inside(value: float, wanted: Expectation) -> bool:
    return (wanted.low is None or value >= wanted.low) and (wanted.high is None or value <= wanted.high)


def _good(values: pd.Series[Any], wanted: Expectation) -> pd.Series[bool]:
    match wanted.kind:
        case "between":
            return values.map(lambda value: _inside(value, wanted)).astype(bool)
        case "in_set":
            return values.isin(wanted.allowed)
        case "unique":
            return ~values.duplicated(keep=False)
        case _:
            return values.astype(str).str.match(wanted.pattern).astype(bool)


def outcome(wanted: Expectation, success: bool, value: Any, total: int, names: Sequence[str]) -> Checked:
    """Put what an engine found into our form.

    Args:
        wanted: The expectation.
        success: Whether it holds.
        value: The single value observed, or None where every row has its own.
        total: Number of rows.
        names: Names of the rows that do not satisfy it.
    """
    observed = f"{len(names)} of {total} images do not" if value is None else f"{value:.6g}"
    if wanted.table == "facts":
        names = [] if success else wanted.offending
    return Checked(wanted.name, wanted.what, success, observed, list(names))


def to_facts(checked: Sequence[Checked]) -> dict[str, Any]:
    """Return the outcomes as they stand in `dataset.json`, with at most 50 names each."""
    results = [
        asdict(replace(c, offending=c.offending[:MAX_OFFENDING])) | {"offending_count": len(c.offending)}
        for c in checked
    ]
    return {"success": all(c.success for c in checked), "results": results}


def list_offending(checked: Sequence[Checked], folder: Path) -> Path | None:
    """Write every image of every failed expectation into `offending.txt`, one a line, and return its path.

    A line is the name of the expectation and the image's as a Python literal, which is one line of plain
    text whatever a hostile name holds.

    Args:
        checked: The outcomes.
        folder: Existing folder for the file; none is written if no single image is at fault.
    """
    lines = [f"{c.expectation}: {name!a}\n" for c in checked if not c.success for name in c.offending]
    if not lines:
        return None
    (folder / OFFENDING).write_text("".join(lines), encoding="ascii")
    return folder / OFFENDING


def raise_failed(source: Path, checked: Sequence[Checked], docs: Path) -> None:
    """Raise if an expectation does not hold, and list all images at fault beside the pages.

    Args:
        source: The image set.
        checked: The outcomes.
        docs: Folder of the pages, which outlives the stage.

    Raises:
        DataError: Naming each that fails, what was observed, the first images, and the file with all.
    """
    failed = [c for c in checked if not c.success]
    if not failed:
        return
    named = list_offending(failed, docs)
    keys = "the keys of the same names under data.expectations"
    told = f"the checks are in {docs / 'index.html'}"
    told += f"; all images at fault are named in {named}" if named else ""
    lines = "".join(f"\n  {_complaint(c)}" for c in failed)
    raise DataError(
        f"{source} fails {len(failed)} expectations{lines}", f"mend the image set, or change {keys}; {told}"
    )


def _complaint(failed: Checked) -> str:
    shown = ", ".join(repr(name) for name in failed.offending[:SHOWN_OFFENDING])
    more = len(failed.offending) - SHOWN_OFFENDING
    tail = f": {shown}" + (f" and {more} more" if more > 0 else "") if shown else ""
    return f"{failed.expectation}: expected that {failed.what}; observed {failed.observed}{tail}"


def plain_page(checked: Sequence[Checked]) -> str:
    """Return a page without scripts that shows the outcomes."""
    rows = "".join(
        f"<tr><td>{'holds' if c.success else 'FAILS'}</td><td>{html.escape(c.expectation)}</td>"
        f"<td>{html.escape(c.what)}</td><td>{html.escape(c.observed)}</td>"
        f"<td>{html.escape(_some(c.offending))}</td></tr>\n"
        for c in checked
    )
    head = "<tr><th></th><th>expectation</th><th>what</th><th>observed</th><th>images</th></tr>\n"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Data checks</title></head>\n'
        f'<body><h1>Data checks</h1>\n<table border="1">\n{head}{rows}</table></body></html>\n'
    )


def _some(names: Sequence[str]) -> str:
    more = len(names) - MAX_OFFENDING
    return ", ".join(names[:MAX_OFFENDING]) + (f" and {more} more" if more > 0 else "")
