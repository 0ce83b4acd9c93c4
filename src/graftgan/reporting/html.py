"""The one-file HTML report.

Everything is inside the file: styles, scripts, pictures. A content security policy in the file allows no
request at all and only the scripts whose sha256 it names, so that text from file names, classes or licences
could not run even if escaping failed.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from graftgan.config import Params
from graftgan.reporting import drawn, glossary, interactive, numbers, provenance, scoring, sources
from graftgan.reporting.curves import colours
from graftgan.reporting.embed import Picture, from_array, from_file
from graftgan.reporting.facts import Facts, RunFacts, read_split
from graftgan.reporting.sheets import sheet

HERE = Path(__file__).parent
DATA_ROWS = 3
CELL_PX = 64
EMPTY_SHEET_PX = 8


@dataclass(frozen=True)
class RunView:
    """One run with its pictures.

    Attributes:
        facts: The run.
        colour: Its colour in charts and bars.
        samples: Samples, drawn from the same latents in all runs, or None.
        pairs: Samples beside their nearest real images, or None.
        interpolation: Animation between latents, or None.
        timeline: Samples of fixed latents in the course of training, or None.
        steps: Label of each row of the timeline.
        inverted: Training images beside what their latents give in the source, or None without a prior.
        copies: What the copy test says.
    """

    facts: RunFacts
    colour: str
    samples: Picture | None
    pairs: Picture | None
    interpolation: Picture | None
    timeline: Picture | None
    steps: Sequence[str]
    inverted: Picture | None
    copies: scoring.CopyVerdict


def render(facts: Facts, params: Params, code: str) -> str:
    """Return the report.

    Args:
        facts: What the stages found.
        params: All parameters.
        code: sha256 over the package's source files.

    Raises:
        MissingInput: If a picture that is there is not a picture.
    """
    panels = drawn.charts(facts.runs)
    charts = interactive.charts(facts.runs) if panels and interactive.available() else None
    script = (HERE / "report.js").read_text(encoding="utf-8")
    scripts = [charts.library, script] if charts else [script]
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=params.report.title,
            policy=content_policy(scripts),
            style=Markup((HERE / "report.css").read_text(encoding="utf-8")),
            scripts=[_script(text) for text in scripts],
            facts=facts,
            runs=[_view(run, facts) for run in facts.runs],
            main=scoring.main_score(facts),
            rows=scoring.score_rows(facts),
            copy_rows=glossary.COPY_MEASURES,
            differences=scoring.differences(facts),
            real=_scored_picture(facts, "real.png", "real images"),
            data_sheets=_data_sheets(facts, params.report.grid),
            sources=sources,
            ranking=sources.source_rows(facts),
            target=_ranked_picture(facts, "target.png", "images of the set"),
            uncovered=_ranked_picture(facts, "uncovered.png", "images that no source comes near"),
            charts=charts,
            data_json=data_json,
            panels=panels,
            drawn=drawn,
            digests=provenance.digests(facts, code),
            run_table=provenance.run_table(facts),
            parameters=provenance.parameters(params),
            licences=provenance.licences(facts),
            measures=glossary.MEASURES,
            numbers=numbers,
        )
    )


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def content_policy(scripts: Sequence[str]) -> str:
    """Return the content security policy that allows these scripts, inline styles and `data:` images only."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'"
    )


def _script(text: str) -> Markup:
    lowered = text.lower()
    if "</script" in lowered or "<!--" in lowered:
        raise ValueError("a script of the report must not hold </script or <!--")
    return Markup(text)


def _view(run: RunFacts, facts: Facts) -> RunView:
    folder = facts.folders["scores"]
    return RunView(
        facts=run,
        colour=colours(facts.runs)[run.name],
        samples=_scored_picture(facts, f"samples/{run.name}.png", f"samples of {run.label}"),
        pairs=from_file(folder / "pairs" / f"{run.name}.png", f"nearest real images, {run.label}", folder),
        interpolation=from_file(
            folder / "interpolation" / f"{run.name}.gif", f"morphing, {run.label}", folder
        ),
        timeline=from_file(run.folder / "timeline.png", f"training of {run.label}", run.folder),
        steps=[numbers.kimg(step) for step in run.timeline],
        inverted=from_file(run.folder / "inversion.png", f"inverted images, {run.label}", run.folder)
        if run.inversion
        else None,
        copies=scoring.copy_verdict(run),
    )


def _scored_picture(facts: Facts, name: str, alt: str) -> Picture | None:
    return from_file(facts.folders["scores"] / name, alt, facts.folders["scores"])


def _ranked_picture(facts: Facts, name: str, alt: str) -> Picture | None:
    picture = from_file(facts.folders["ranking"] / name, alt, facts.folders["ranking"])
    return picture if picture and picture.height > EMPTY_SHEET_PX else None


def _data_sheets(facts: Facts, columns: int) -> list[tuple[str, Picture]]:
    found = []
    for split in ("train", "validation", "test"):
        images = read_split(facts.folders["dataset"], split, columns * DATA_ROWS)
        if len(images):
            picture = from_array(sheet(images, min(columns, len(images)), CELL_PX), f"{split} images")
            found.append((split, picture))
    return [(split, picture) for split, picture in found if picture]


def data_json(value: object) -> Markup:
    """Return JSON that may stand inside a script element: `<`, `>`, `&` and line separators are escaped."""
    raw = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    for sign in "<>&":
        raw = raw.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(raw)
