"""A short verdict in Markdown, for places that show Markdown and no HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from graftgan.reporting.facts import Facts
from graftgan.reporting.glossary import COPY_MEASURES
from graftgan.reporting.scoring import Row, copy_verdict, differences, score_rows

SPECIAL = re.compile(r"[\\`*_{}\[\]#!|~$]")
DIGEST_DIGITS = 12


def escape(text: object) -> str:
    """Return text that Markdown shows as it is: on one line, with every sign that means something escaped."""
    line = " ".join(str(text).split())
    html = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return SPECIAL.sub(lambda match: f"\\{match.group()}", html)


def code(text: object) -> str:
    """Return text as a Markdown code span on one line; backticks, which would end it, become quotes."""
    line = " ".join(str(text).split()).replace("`", "'")
    return f"`{line}`"


def verdict_markdown(facts: Facts, title: str) -> str:
    """Return the verdict, the scores, the choice of the source and the warnings as Markdown.

    Args:
        facts: What the stages found.
        title: Heading.
    """
    digest = str(facts.dataset["digest"])[:DIGEST_DIGITS]
    parts = [
        f"# {escape(title)}",
        f"**{escape(facts.scores['verdict'])}**",
        _table([row for row in score_rows(facts) if row.key not in COPY_MEASURES], facts),
        _list(f"{d.title}: {d.value} ({d.interval}), {d.outcome}" for d in differences(facts)),
        f"Source: {escape(facts.ranking['choice'].get('why') or facts.ranking['choice'].get('name'))}",
        f"Copying: {escape(copy_verdict(facts.chosen).sentence)}",
        _list(f"Warning: {text}" for text in facts.warnings()),
        f"Image set {escape(facts.dataset['source'])}, digest {code(digest)}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)


def _table(rows: Sequence[Row], facts: Facts) -> str:
    if not rows:
        return ""
    heads = ["Measure", *(run.label for run in facts.runs), "Floor"]
    lines = ["| " + " | ".join(escape(head) for head in heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        values = [f"{c.value} ({c.interval})" if c.interval else c.value for c in row.cells]
        cells = [f"{row.measure.title}, {row.measure.advice}", *values, row.floor]
        lines.append("| " + " | ".join(escape(cell) for cell in cells) + " |")
    return "\n".join(lines)
