"""Does recall at the start tell the outcome? The published part of the playground, as far as it got.

Adapts the checkpoints of source I in the published setting (101 of them, from coarse steps to fine ones), and
writes the correlations beside the published ones. A run that is stopped goes on where it was, and the table
says how many checkpoints it is over.

    python benchmarks/playground.py [--out out/study/playground] [--report]
"""

from __future__ import annotations

import logging
from pathlib import Path

import click

from graftgan.context import Context, StopSignal
from graftgan.contract import write_json, write_text
from graftgan.errors import Interrupted
from graftgan.places import cache_home
from graftgan.study.findings import OUTCOMES, Finding, correlations
from graftgan.study.playground import Playground, Scale, finished, run

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results"
# W1 of source I to its own law, printed by the authors' notebook (one seed).
PUBLISHED_TRACE = {0: 20.0, 1000: 12.0, 2000: 12.9, 3000: 9.3, 4000: 6.8, 5000: 1.7}


def cell(found: Finding) -> str:
    """Return a coefficient with what is published of it."""
    if found.ours.r is None:
        return "constant"
    known = "" if found.published is None else f" (published {found.published.r:+.3f})"
    return f"{found.ours.r:+.3f}{known}"


def table(found: Playground) -> str:
    """Return Markdown: correlations, and how near the source came to its own law."""
    rows = [f for f in correlations(found.checkpoints) if f.starts == "I"]
    steps = sorted(record["step"] for record in found.checkpoints)
    lines = [
        f"{len(steps)} of 101 checkpoints of source I, steps {steps[0]} to {steps[-1]}; published are all.",
        "", f"| measure at the start | {' | '.join(OUTCOMES)} |", "| --- |" + " --- |" * len(OUTCOMES),
    ]  # fmt: skip
    for name in dict.fromkeys(f.predictor for f in rows):
        cells = (cell(next(f for f in rows if (f.predictor, f.outcome) == (name, o))) for o in OUTCOMES)
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    trace = dict(next(s["trace"] for s in found.sources if (s["law"], s["part"]) == ("I", "correlation")))
    shown = [step for step in PUBLISHED_TRACE if step in trace]
    lines += [
        "", f"| W1 of source I to its own law, after | {' | '.join(map(str, shown))} |",
        "| --- |" + " --- |" * len(shown),
        f"| ours | {' | '.join(f'{trace[step]:.1f}' for step in shown)} |",
        f"| published | {' | '.join(f'{PUBLISHED_TRACE[step]:.1f}' for step in shown)} |",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/study/playground"))
@click.option("--report", is_flag=True, help="Write the table of what is done, and do no more.")
@click.option("--workers", default=1, type=click.IntRange(1))
def main(out: Path, report: bool, workers: int) -> None:
    """Go on until all is done or a signal comes, then write the table."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("graftgan").setLevel(logging.INFO)
    stop = StopSignal()
    stop.install()
    ctx = Context(out / "states", cache_home(), stop=stop)
    try:
        if not report:
            run(out, 1, Scale(), ctx, workers, laws=("I",), with_arms=False)
    except Interrupted as interrupted:
        click.echo(interrupted.message)
    found = finished(out, 1, Scale())
    rows = [
        {
            "measure": f.predictor, "outcome": f.outcome, "r": f.ours.r, "n": f.ours.n, "p": f.ours.p,
            "published": None if f.published is None else f.published.r,
        }
        for f in correlations(found.checkpoints) if f.starts == "I"
    ]  # fmt: skip
    write_json(RESULTS / "playground.json", {"correlations": rows})
    write_text(RESULTS / "playground.md", table(found))
    click.echo(table(found))


if __name__ == "__main__":
    main()
