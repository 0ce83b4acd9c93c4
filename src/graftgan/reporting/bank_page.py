"""The report of a bank: pictures of every task, storage, quality and the proof that nothing was forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import graftgan
from graftgan.reporting import drawn, glossary, html, numbers
from graftgan.reporting.bank_facts import EXAMPLES, After, BankFacts, Look, TaskFacts
from graftgan.reporting.embed import Picture, from_file
from graftgan.reporting.linechart import PALETTE, Chart, Drawing, Trace, drawing
from graftgan.reporting.numbers import Bar, Interval, Scale

FLOAT32_BYTES = 4
WITHIN, BETTER, WORSE = "within its interval", "better", "worse"
PILLS = {WITHIN: "good", BETTER: "good", WORSE: "bad"}
SAME, CHANGED, ELSEWHERE, UNKNOWN = "same bits", "changed", "other processor", ""
STATES = {SAME: "good", CHANGED: "bad", ELSEWHERE: "unknown"}


@dataclass(frozen=True)
class ScoreRow:
    """One score of one task.

    Attributes:
        name: The score.
        measure: How it is read.
        value: Of the bank's task, as text.
        interval: Its interval as text.
        bar: Its drawing.
        alone: Of the model of its own, as text; empty without one.
        alone_interval: Its interval as text.
        alone_bar: Its drawing.
        outcome: The bank's value against the interval of the model of its own; empty without one.
    """

    name: str
    measure: glossary.Measure
    value: str
    interval: str
    bar: Bar | None
    alone: str
    alone_interval: str
    alone_bar: Bar | None
    outcome: str


@dataclass(frozen=True)
class Cell:
    """One task at one moment.

    Attributes:
        value: Its score as text; empty before it was learnt or where nobody looked.
        state: Whether its outputs are those of the moment it was added, or why that cannot be told.
        digest: Their digest.
    """

    value: str
    state: str
    digest: str


@dataclass(frozen=True)
class Kept:
    """One task through the history of the bank.

    Attributes:
        name: The task.
        measure: Title of its score.
        cells: One a moment.
        loss: How much worse its score has become since it was added, as text.
    """

    name: str
    measure: str
    cells: tuple[Cell, ...]
    loss: str


@dataclass(frozen=True)
class TaskView:
    """One task with its pictures and scores.

    Attributes:
        facts: The task.
        colour: Its colour in charts.
        picture: Inputs, outputs and truths, or None.
        heads: What the columns of the picture are.
        rows: Its scores.
        about: What it is, by label.
    """

    facts: TaskFacts
    colour: str
    picture: Picture | None
    heads: tuple[str, ...]
    rows: tuple[ScoreRow, ...]
    about: tuple[tuple[str, str], ...]


def render(facts: BankFacts, title: str = "Task bank") -> str:
    """Return the report as one HTML file that asks for nothing from outside.

    Args:
        facts: What there is to tell.
        title: Heading above the verdict.

    Raises:
        MissingInput: If a picture that is there is not a picture.
    """
    script = (html.HERE / "report.js").read_text(encoding="utf-8")
    views = [_view(task, place) for place, task in enumerate(facts.tasks)]
    environment = Environment(
        loader=FileSystemLoader(html.HERE),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("bank.html.j2").render(
        title=title,
        verdict=verdict(facts),
        policy=html.content_policy([script]),
        style=Markup((html.HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        facts=facts,
        views=views,
        history=kept(facts),
        moments=[after.task for after in facts.history],
        storage=storage_chart(facts.tasks),
        curves=curve_charts(facts.tasks),
        chips=_chips(facts),
        warnings=[f"{task.name}: {text}" for task in facts.tasks for text in task.warnings],
        licences=dict.fromkeys(pair for task in facts.tasks for pair in task.licences),
        pills=PILLS, states=STATES, numbers=numbers, drawn=drawn, version=graftgan.__version__,
    )  # fmt: skip


def verdict(facts: BankFacts) -> str:
    """Return what the bank is worth, in a few sentences."""
    if not facts.tasks:
        return "The bank has no task yet."
    count, size = len(facts.tasks), facts.tasks[-1].cost.cumulative_ratio
    stored = (
        f"{count} tasks are stored in the space of {size:.2f} generators instead of {count} "
        f"({numbers.share(size, count)})."
        if count > 1
        else "One task is stored as a whole generator; later ones will share its filters."
    )
    sentences = [stored, _kept_sentence(facts)]
    outcomes = [outcome(task, task.measure) for task in facts.tasks if task.standalone]
    known = [found for found in outcomes if found]
    if known:
        good = sum(found != WORSE for found in known)
        sentences.append(f"{good} of {len(known)} score no worse than the interval of a model of their own.")
    return " ".join(sentences)


def _kept_sentence(facts: BankFacts) -> str:
    if facts.findings:
        count = len(facts.findings)
        return f"It is damaged in {count} {'place' if count == 1 else 'places'}: {facts.findings[0]}."
    rows = kept(facts)
    if changed := [row.name for row in rows if any(cell.state == CHANGED for cell in row.cells)]:
        return f"Outputs have changed of {', '.join(changed)}."
    looks = sum(cell.state == SAME for row in rows for cell in row.cells)
    if looks:
        return (
            "Nothing was forgotten: after every addition the earlier tasks' outputs were the same "
            f"to the bit, in {looks} of {looks} comparisons."
        )
    return "Nothing was forgotten: every task makes the images that it made when it was finished."


def outcome(task: TaskFacts, name: str) -> str:
    """Return how a task's score compares with the interval of the model of its own; empty if it cannot."""
    mine, alone = task.scores.get(name), task.standalone.get(name)
    if mine is None or alone is None or mine.value is None or alone.low is None or alone.high is None:
        return ""
    if alone.low <= mine.value <= alone.high:
        return WITHIN
    above = mine.value > alone.high
    return BETTER if above == (glossary.measure(name)[1].direction > 0) else WORSE


def score_rows(task: TaskFacts) -> tuple[ScoreRow, ...]:
    """Return all scores of a task in the order of the glossary."""
    rows = []
    for name in glossary.in_order(task.scores):
        mine, alone = task.scores[name], task.standalone.get(name)
        both = [mine] if alone is None else [mine, alone]
        decimals, scale = numbers.decimals_for(both), Scale.over(both)
        rows.append(
            ScoreRow(
                name=name,
                measure=glossary.measure(name)[1],
                value=numbers.text(mine.value, decimals),
                interval=numbers.range_text(mine, decimals),
                bar=scale.bar(mine),
                alone="" if alone is None else numbers.text(alone.value, decimals),
                alone_interval="" if alone is None else numbers.range_text(alone, decimals),
                alone_bar=None if alone is None else scale.bar(alone),
                outcome=outcome(task, name),
            )
        )
    return tuple(rows)


def kept(facts: BankFacts) -> list[Kept]:
    """Return every task through the history of the bank."""
    return [_kept(task, facts.history) for task in facts.tasks] if facts.history else []


def _kept(task: TaskFacts, history: Sequence[After]) -> Kept:
    name = task.measure
    looks = [after.looks.get(task.name) for after in history]
    found = [look.scores.get(name, Interval(None)) if look else Interval(None) for look in looks]
    values = [interval.value for interval in found if interval.value is not None]
    decimals = numbers.decimals_for([interval for interval in found if interval.value is not None])
    first: dict[str, str] = {}
    cells = []
    for look, interval in zip(looks, found, strict=True):
        value = "" if interval.value is None else numbers.text(interval.value, decimals)
        cells.append(Cell(value, _state(look, first), look.digest if look else ""))
    loss = ""
    if len(values) > 1:
        worse = (values[0] - values[-1]) * glossary.measure(name)[1].direction
        loss = "0" if worse == 0 else numbers.text(worse, max(decimals, 3), signed=True)
    return Kept(task.name, glossary.measure(name)[1].title if name else "", tuple(cells), loss)


def _state(look: Look | None, first: dict[str, str]) -> str:
    """Compare a look with the first one on the same processor, which is noted."""
    if look is None:
        return UNKNOWN
    if look.environment not in first:
        elsewhere = bool(first)
        first[look.environment] = look.digest
        return ELSEWHERE if elsewhere else UNKNOWN
    return SAME if look.digest == first[look.environment] else CHANGED


def storage_chart(tasks: Sequence[TaskFacts]) -> Drawing | None:
    """Return the size of the bank beside that of models of their own, task by task, in whole generators."""
    steps = [float(task.cost.index) for task in tasks]
    bank = [task.cost.cumulative_ratio for task in tasks]
    traces = (
        Trace("this bank", steps, bank, PALETTE[0]),
        Trace("a model for each task", steps, steps, PALETTE[1], dashed=True),
    )
    return drawing(Chart("Size", "In whole generators.", "tasks", traces)) if len(tasks) > 1 else None


CURVES = (
    ("l1_validation", "L1 on validation images", "Lower is better."),
    ("kid_validation", "KID on validation images", "Lower is better."),
    ("loss_l1", "L1 on training images", "The distance that paired tasks make smaller."),
    ("loss_cycle", "Cycle", "How far unpaired images come back from where they were."),
    ("loss_g", "Generator against its discriminator", "They balance each other and need not fall."),
    ("loss_d", "Discriminator", "At 0 for long it has won, and the generator learns little from it."),
)


def curve_charts(tasks: Sequence[TaskFacts]) -> list[Drawing]:
    """Return the training curves that at least one task has."""
    found = [
        drawing(Chart(title, help_text, "thousands of images seen", _traces(tasks, column)))
        for column, title, help_text in CURVES
    ]
    return [chart for chart in found if chart]


def _traces(tasks: Sequence[TaskFacts], column: str) -> tuple[Trace, ...]:
    traces = []
    for place, task in enumerate(tasks):
        pairs = [(row.get("images_seen"), row.get(column)) for row in task.curves]
        points = [(x / 1000, y) for x, y in pairs if x is not None and y is not None]
        if points:
            xs, ys = zip(*points, strict=True)
            traces.append(Trace(task.name, xs, ys, PALETTE[place % len(PALETTE)]))
    return tuple(traces)


def _view(task: TaskFacts, place: int) -> TaskView:
    picture = None
    if task.folder is not None:
        picture = from_file(task.folder / EXAMPLES, f"inputs and outputs of {task.name}", task.folder)
    paired = task.data.get("kind", "paired") == "paired"
    heads = ("input", "output", "truth") if paired else ("input", "output")
    return TaskView(
        task, PALETTE[place % len(PALETTE)], picture, heads, score_rows(task), tuple(_about(task))
    )


def _about(task: TaskFacts) -> list[tuple[str, str]]:
    cost, rows = task.cost, [("Images", described(task))]
    if task.images:
        counts = [f"{numbers.count(count)} {split}" for split, count in task.images.items()]
        rows.append(("Split", ", ".join(counts)))
    rows += [
        ("Start", task.stored.init),
        ("Filters added", f"{numbers.count(cost.added)} values, {cost.ratio:.1%} of a generator"),
    ]
    if task.seconds is not None:
        rows.append(("Learnt in", f"{task.seconds:.0f} s"))
    if task.standalone_seconds is not None:
        rows.append(("A model of its own", f"{task.standalone_seconds:.0f} s"))
    return [(label, value) for label, value in rows if value]


def described(task: TaskFacts) -> str:
    """Return what a task turns into what, of paths only the last part."""
    data = task.data
    if not data.get("target"):
        return ""
    target = str(data["target"]).replace("\\", "/").rpartition("/")[2]
    given = str(data.get("input") or "").replace("\\", "/").rpartition("/")[2]
    source = f"{data.get('make')} of {target}" if data.get("make") else given
    return f"{data.get('kind', 'paired')}, {source} to {target}"


def _chips(facts: BankFacts) -> list[tuple[str, str]]:
    spec, full = facts.bank.spec, facts.tasks[0].cost.full if facts.tasks else 0
    chips = [
        ("Generator", f"{spec.kind}, {spec.ngf} feature maps, {spec.norm} norm"),
        ("λ", str(facts.bank.manifest.share)),
        ("On disk", f"{facts.stored_bytes / 1e6:.1f} MB"),
    ]
    if full:
        alone = len(facts.tasks) * full * FLOAT32_BYTES / 1e6
        chips.append(("Filters of models of their own", f"{alone:.1f} MB"))
    return chips
