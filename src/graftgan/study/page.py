"""A study as one HTML file: text, tables and drawn charts, without any script."""

from __future__ import annotations

from dataclasses import dataclass, field

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from graftgan.reporting import html
from graftgan.reporting.drawn import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH
from graftgan.reporting.linechart import Chart, drawing


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        caption: What it shows.
        head: Column headings.
        rows: Cells as text.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        title: Heading.
        text: Paragraphs.
        tables: Tables.
        charts: Charts.
    """

    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()


@dataclass(frozen=True)
class Page:
    """A whole study.

    Attributes:
        title: What was studied.
        verdict: What was found, in a sentence.
        facts: Label and value of what was done.
        sections: Its sections.
    """

    title: str
    verdict: str
    facts: tuple[tuple[str, str], ...] = ()
    sections: tuple[Section, ...] = field(default=())


def render(page: Page) -> str:
    """Return the page as HTML that asks for nothing from outside and runs nothing."""
    environment = Environment(
        loader=FileSystemLoader(html.HERE),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals["drawing"] = drawing
    return environment.get_template("study.html.j2").render(
        page=page,
        policy=html.content_policy([]),
        style=Markup((html.HERE / "report.css").read_text(encoding="utf-8")),
        width=WIDTH, height=HEIGHT, left=LEFT, right=RIGHT, bottom=BOTTOM,
    )  # fmt: skip


def number(value: float | None, digits: int = 3) -> str:
    """Return a number as text, a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"
