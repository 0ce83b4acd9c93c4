"""The model card: what a registered model is, where it comes from, how far it can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graftgan.config import Track
from graftgan.reporting.facts import decision
from graftgan.reporting.markdown import code as code_span
from graftgan.reporting.markdown import escape
from graftgan.reporting.numbers import NONE, Interval, decimals_for, number, text

INTENDED = (
    "Sampling images like those of the image set, for pictures, prototypes, data augmentation and the study "
    "of transfer between generators."
)
NOT_INTENDED = (
    "Passing samples off as photographs or as the work of the image set's authors, and any use that the "
    "licences below do not allow."
)

# The default, not the address that was used: equal models have equal cards, and addresses are not for them.
CONNECT = f'mlflow.set_tracking_uri("{Track().uri}")  # track.uri'


def model_card(
    name: str, model: Mapping[str, Any], dataset: Mapping[str, Any], scores: Mapping[str, Any], code: str
) -> str:
    """Return the model card in Markdown; equal facts give equal text.

    Args:
        name: Registered model name.
        model: Content of the run's `model.json`.
        dataset: Content of `dataset.json`.
        scores: Content of `scores.json`.
        code: sha256 over the package's source files.
    """
    run = scores["runs"].get(model["run"], {})
    sections = (
        ("Intended use", [INTENDED, "", f"Not intended: {NOT_INTENDED}"]),
        ("Data", _data(dataset)),
        ("Source and licences", _source(model, dataset)),
        ("Method", _method(model)),
        ("Scores", _scores(run, scores)),
        ("Limits", _limits(model, dataset, scores, run)),
        ("Use", _use(name, model)),
        ("Provenance", _provenance(model, dataset, scores, code)),
    )
    lines = [
        f"# {escape(name)}: {escape(dataset['source'])} at {dataset['resolution']} px",
        "",
        _summary(model, dataset),
    ]
    for heading, body in sections:
        lines += ["", f"## {heading}", "", *body]
    return "\n".join(lines) + "\n"


def _summary(model: Mapping[str, Any], dataset: Mapping[str, Any]) -> str:
    origin = f"adapted from {code_span(model['source'])}" if model.get("source") else "trained from scratch"
    family, images = escape(model["spec"]["family"]), code_span(dataset["source"])
    return f"A {family} generator of {dataset['resolution']} px images, {origin} on {images}."


def _data(dataset: Mapping[str, Any]) -> list[str]:
    splits = ", ".join(f"{count} {split}" for split, count in sorted(dataset["splits"].items()) if count)
    lines = [f"- {dataset['images']} images of {escape(dataset['source'])} ({splits})"]
    if labels := dataset.get("labels"):
        lines.append(f"- Classes: {', '.join(map(escape, labels))}")
    for split, reason in sorted((dataset.get("missing") or {}).items()):
        lines.append(f"- No {split} images: {escape(reason)}")
    return lines


def _source(model: Mapping[str, Any], dataset: Mapping[str, Any]) -> list[str]:
    lines = [f"- Images: {escape(dataset.get('licence') or 'licence not stated')}"]
    if not model.get("source"):
        return [*lines, "- No source checkpoint"]
    title = escape(model.get("source_title") or model["source"])
    lines.append(
        f"- Source checkpoint {title}: {escape(model.get('source_licence') or 'licence not stated')}"
    )
    return [*lines, "- Both licences bind whoever uses this model."]


def _method(model: Mapping[str, Any]) -> list[str]:
    seen, total = number(model.get("images_seen")), number(model.get("images_total"))
    lines = [f"- Transfer method {code_span(model['method'])}, seed {model['seed']}"]
    if told := decision(model):
        lines.append(f"- {escape(told)}")
    if seen is not None and total is not None:
        lines.append(f"- {total / 1000:g} kimg of training; the checkpoint at {seen / 1000:g} kimg was kept")
    return lines


def _scores(run: Mapping[str, Any], scores: Mapping[str, Any]) -> list[str]:
    rows: Sequence[Mapping[str, Any]] = run.get("scores") or []
    if not rows:
        return ["This model was not scored."]
    percent = round(100 * float(scores["confidence"]))
    lines = [
        f"| score | value | {percent} % interval | real against real |",
        "|---|---|---|---|",
    ]
    for row in rows:
        interval = Interval.of(row)
        decimals = decimals_for([interval])
        low, high = text(interval.low, decimals), text(interval.high, decimals)
        bounds = f"{low} to {high}" if interval.known else NONE
        lines.append(
            f"| {row['name']} | {text(interval.value, decimals)} | {bounds} "
            f"| {text(number(row.get('floor')), decimals)} |"
        )
    reference = scores.get("reference", "test")
    held = "held-out test images" if reference == "test" else f"{reference} images, which the model has seen"
    lines += ["", f"Measured against {scores['n_test']} {held}, with {scores['n_fake']} samples, protocol"]
    return [*lines, f"{code_span(scores['protocol'])}. {escape(scores['verdict'])}"]


def _limits(
    model: Mapping[str, Any], dataset: Mapping[str, Any], scores: Mapping[str, Any], run: Mapping[str, Any]
) -> list[str]:
    train = (dataset.get("splits") or {}).get("train")
    lines = [f"- It has seen {train} images; what they lack, it cannot make."]
    copy = run.get("copy") or {}
    if copy.get("available"):
        share = number(copy.get("share_closer"))
        lines.append(
            f"- Share of samples closer to a training image than to a held-out one: {text(share, 3)} "
            "(0.5 where nothing is copied)"
        )
    else:
        reason = copy.get("reason") or "it was not measured"
        lines.append(f"- Whether it copies training images is not known: {escape(reason)}")
    warnings = [*(model.get("warnings") or []), *(scores.get("warnings") or [])]
    return lines + [f"- {escape(warning)}" for warning in dict.fromkeys(str(w) for w in warnings)]


def _use(name: str, model: Mapping[str, Any]) -> list[str]:
    columns = '{"seed": [0, 1], "truncation_psi": [1.0, 0.7]'
    columns += ', "class": [0, 0]}' if model["spec"].get("classes") else "}"
    return [
        "```python",
        "import mlflow, pandas",
        "",
        CONNECT,
        f'model = mlflow.pyfunc.load_model("models:/{name}@champion")',
        f"images = model.predict(pandas.DataFrame({columns}))  # uint8, one image a row",
        "```",
    ]


def _provenance(
    model: Mapping[str, Any], dataset: Mapping[str, Any], scores: Mapping[str, Any], code: str
) -> list[str]:
    rows = {
        "Image set": dataset["digest"],
        "Source sha256": model.get("source_sha256") or "none",
        "Code sha256": code,
        "Protocol of the scores": scores["protocol"],
        "Protocol of the checkpoint's choice": model.get("protocol") or "none",
    }
    return [f"- {label}: {code_span(value)}" for label, value in rows.items()]
