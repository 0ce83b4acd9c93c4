"""The comparison of methods and seeds as a page and as Markdown, and pictures for a task's card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from graftgan.reporting.embed import from_file
from graftgan.reporting.markdown import escape
from graftgan.reporting.numbers import NONE

MAX_ARMS_SHOWN = 24
# All scores are in the JSON and CSV; these are read side by side.
SHOWN = ("kid", "fd", "precision", "recall", "copying")


@dataclass(frozen=True)
class ArmFacts:
    """What the page shows of an arm.

    Attributes:
        row: Its line of the table, as `comparison.json` holds it.
        samples: Its sample sheet.
    """

    row: Mapping[str, Any]
    samples: Path


def comparison_html(arms: Sequence[ArmFacts], methods: Sequence[Mapping[str, Any]], n_test: int) -> str:
    """Return a self-contained page.

    Args:
        arms: Best first.
        methods: Means over seeds, best first.
        n_test: Number of test images.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    rows = [arm.row for arm in arms]
    shown = arms[:MAX_ARMS_SHOWN]
    drawn = [
        (a.row["arm"], from_file(a.samples, f"samples of {a.row['arm']}", a.samples.parent)) for a in shown
    ]
    return environment.get_template("comparison.html.j2").render(
        winner=rows[0]["arm"], arms=arms, n_test=n_test,
        head=heads(rows), rows=[cells(row, names(rows)) for row in rows],
        method_head=["method", "seeds", "KID, validation", *map(short, names(rows))],
        method_rows=[method_cells(row, names(rows)) for row in methods],
        pictures=[(name, picture) for name, picture in drawn if picture is not None],
    )  # fmt: skip


def comparison_markdown(rows: Sequence[Mapping[str, Any]], methods: Sequence[Mapping[str, Any]]) -> str:
    """Return the winner and both tables as Markdown."""
    best = rows[0]
    parts = [
        f"# {escape(best['arm'])} wins of {len(rows)}",
        f"Its KID on the validation images is {figure(best['kid_validation']['value'])}; "
        "test scores decide nothing.",
        table(heads(rows), [cells(row, names(rows)) for row in rows]),
        table(
            ["method", "seeds", "KID, validation", *map(short, names(rows))],
            [method_cells(row, names(rows)) for row in methods],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(escape(cell) if n != 1 else cell for cell in line) + " |"
        for n, line in enumerate(lines)
    )


def names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the test scores that are shown."""
    found = dict.fromkeys(name for row in rows for name in row["test"])
    return [name for name in found if short(name) in SHOWN and "_excess_" not in name]


def short(name: str) -> str:
    """Return the name of a measure without the extractor's, which is the same for all arms."""
    return name.partition("_")[0]


def heads(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the headings of the table of arms."""
    return ["method/seed", "source", "KID, validation", *(f"{short(name)}, test" for name in names(rows))]


def cells(row: Mapping[str, Any], shown: Sequence[str]) -> list[str]:
    """Return an arm's cells."""
    kid = row["kid_validation"]
    ends = "" if kid["low"] is None else f" ({figure(kid['low'])} to {figure(kid['high'])})"
    tests = [figure(row["test"].get(name)) for name in shown]
    return [row["arm"], row["source"] or "scratch", figure(kid["value"]) + ends, *tests]


def method_cells(row: Mapping[str, Any], tests: Sequence[str]) -> list[str]:
    """Return a method's cells."""
    found = [row["kid_validation"], *(row["test"].get(name) for name in tests)]
    return [row["method"], str(row["seeds"]), *(spread(entry) for entry in found)]


def spread(entry: Mapping[str, float | None] | None) -> str:
    """Return a mean with its deviation."""
    if entry is None:
        return NONE
    deviation = entry["deviation"]
    return figure(entry["mean"]) + ("" if deviation is None else f" ± {deviation:.2g}")


def figure(value: float | None) -> str:
    """Return a number with four digits, or a dash."""
    return NONE if value is None else f"{value:.4g}"


def pictures_html(title: str, paths: Sequence[tuple[str, Path]]) -> str:
    """Return pictures below each other as a self-contained page for a task's card.

    Args:
        title: Heading.
        paths: Caption and file of each; what is no readable picture is left out.
    """
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title></head>'
        '<body style="font:15px system-ui,sans-serif"><h1>{{ title }}</h1>{% for name, picture in pictures %}'
        '<figure><img src="{{ picture.uri }}" alt="{{ picture.alt }}" style="max-width:100%">'
        "<figcaption>{{ name }}</figcaption></figure>{% endfor %}</body></html>\n"
    )
    drawn = [(name, from_file(path, name, path.parent)) for name, path in paths]
    return page.render(title=title, pictures=[pair for pair in drawn if pair[1] is not None])
