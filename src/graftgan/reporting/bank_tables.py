"""What a bank's tasks score and cost, as Markdown for the verdict and the model card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from graftgan.reporting.card import CONNECT
from graftgan.reporting.markdown import escape
from graftgan.reporting.numbers import Interval, decimals_for, range_text, text

Facts = Mapping[str, Any]


def verdict(tasks: Sequence[Facts], scores: Facts, proof: Facts) -> str:
    """Return the verdict on a list of tasks.

    Args:
        tasks: Content of each task's `result.json`.
        scores: Content of `scores.json`.
        proof: Content of `proof.json`.
    """
    warnings = [f"{facts['name']}: {warning}" for facts in tasks for warning in facts["warnings"]]
    parts = [
        f"# {len(tasks)} tasks in one bank",
        f"**{escape(proof['statement'])}**",
        storage_sentence(tasks),
        "## Scores",
        scores_table(tasks, scores),
        "## Storage",
        storage_table(tasks),
        "\n".join(f"- warning: {escape(warning)}" for warning in warnings),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def storage_sentence(tasks: Sequence[Facts]) -> str:
    """Return how large the bank is beside one generator a task."""
    last = tasks[-1]
    return (
        f"The bank holds {last['cumulative']:,} filter values and mixtures: {last['cumulative_ratio']:.2f} "
        f"times one generator, where a generator a task would be {len(tasks)} times one."
    )


def storage_table(tasks: Sequence[Facts]) -> str:
    """Return what each task adds."""
    head = ("task", "start", "adds", "of a generator", "bank, in generators")
    rows = [
        (
            escape(facts["name"]),
            escape(facts["init"]),
            f"{facts['added']:,}",
            f"{facts['ratio']:.1%}",
            f"{facts['cumulative_ratio']:.3f}",
        )
        for facts in tasks
    ]
    return table(head, rows)


def scores_table(tasks: Sequence[Facts], scores: Facts) -> str:
    """Return the held-out scores of every task of the last row, with intervals."""
    found = scores["rows"][-1]["tasks"]
    lines = []
    for name, entry in ((facts["name"], found[facts["name"]]) for facts in tasks):
        for metric, raw in entry["scores"].items():
            interval = Interval.of(raw)
            decimals = decimals_for([interval])
            value = text(interval.value, decimals)
            lines.append(
                (escape(name), escape(metric), value, range_text(interval, decimals), str(entry["images"]))
            )
    percent = round(100 * float(scores["protocol"]["confidence"]))
    return table(("task", "score", "value", f"{percent} % interval", "test images"), lines)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def bank_card(name: str, facts: Facts, tasks: Sequence[Facts], scores: Facts, proof: Facts) -> str:
    """Return the model card of a bank in Markdown; equal facts give equal text.

    Args:
        name: Registered model name.
        facts: Content of the package's `model.json`.
        tasks: Content of each task's `result.json`.
        scores: Content of `scores.json`.
        proof: Content of `proof.json`.
    """
    first = tasks[0]["name"]
    sections = (
        ("Intended use", [INTENDED, "", f"Not intended: {NOT_INTENDED}"]),
        ("Tasks", [task_line(task) for task in tasks]),
        ("Licences of the images", licences(tasks)),
        ("Scores", [scores_table(tasks, scores), "", "Measured on held-out test images of each task."]),
        ("Forgetting", [escape(proof["statement"])]),
        ("Storage", [storage_table(tasks), "", storage_sentence(tasks)]),
        ("Limits", [f"- {limit}" for limit in limits(tasks)]),
        ("Use", _use(name, first)),
        ("Provenance", [f"- {key}: `{value}`" for key, value in facts["provenance"].items()]),
    )
    spec = facts["spec"]
    lines = [f"# {name}: {len(tasks)} image-to-image tasks", ""]
    lines.append(f"A bank of {spec['kind']} generators with {spec['ngf']} feature maps that share filters.")
    for heading, body in sections:
        lines += ["", f"## {heading}", "", *body]
    return "\n".join(lines) + "\n"


INTENDED = "Translating images like those of a task's inputs, and the study of learning without forgetting."
NOT_INTENDED = (
    "Passing outputs off as photographs or as the work of the image sets' authors, and any use that the "
    "licences of the images do not allow."
)


def task_line(task: Facts) -> str:
    """Return what one task translates, as a line of a list."""
    data = task["data"]
    source = f"{data['make']} of {data['target']}" if data["make"] else data["input"]
    return (
        f"- `{task['name']}`: {escape(source)} to {escape(data['target'])}, {data['kind']}, "
        f"{data['resolution']} px, {task['images']['train']} training images, start {escape(task['init'])}"
    )


def licences(tasks: Sequence[Facts]) -> list[str]:
    """Return the image sets of all tasks with the first lines of their licences, as lines of a list."""
    found = {name: text for task in tasks for name, text in task["licences"]}
    return [f"- {escape(name)}: {escape(text or 'licence not stated')}" for name, text in found.items()]


def limits(tasks: Sequence[Facts]) -> list[str]:
    """Return what a user should know before trusting a task."""
    told = ["Inputs unlike those of the task give outputs of no meaning."]
    return told + [f"{task['name']}: {escape(warning)}" for task in tasks for warning in task["warnings"]]


def _use(name: str, task: str) -> list[str]:
    return [
        "```python",
        "import mlflow, pandas, pathlib",
        "",
        CONNECT,
        f'model = mlflow.pyfunc.load_model("models:/{name}@champion")',
        'image = pathlib.Path("input.png").read_bytes()',
        f'made = model.predict(pandas.DataFrame({{"task": ["{task}"], "image": [image]}}))',
        'pathlib.Path("output.png").write_bytes(made["image"][0])',
        "```",
    ]
