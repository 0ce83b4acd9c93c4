"""The stage that scores every task of the bank after one was added."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from graftgan.bank.store import Bank
from graftgan.bank.tasks import environment, exact
from graftgan.bank.tasks import load_task as stored_generator
from graftgan.context import Context
from graftgan.contract import Outcome, read_json, write_json
from graftgan.data.pairs import TaskImages, load_task
from graftgan.errors import MissingInput
from graftgan.gans.base import to_uint8
from graftgan.lifelong_config import LifelongParams
from graftgan.metrics.features import Extractor
from graftgan.stages.lifelong import Settings, open_extractor, score_outputs, test_part
from graftgan.stages.lifelong_files import plain
from graftgan.stages.lifelong_specs import BANK


def run(
    inputs: Mapping[str, Path], params: LifelongParams, outputs: Mapping[str, Path], ctx: Context, item: str
) -> Outcome:
    """Translate the test images of every task of the bank, digest what comes out, and score it.

    Outputs are computed on the CPU, one image after another on one thread, so that equal weights give equal
    bits. A task whose outputs are those of the row before, bit for bit, keeps its scores.

    Args:
        inputs: Folder `learnt`, and the file `before` with the scores up to the task before.
        params: `tasks.*.data`, `scores` and `runtime`.
        outputs: File `scores`: the same with a row more.
        ctx: Surroundings.
        item: The task that was added last.

    Returns:
        Scores of the task that was added, and how many earlier tasks make the same images as before.

    Raises:
        MissingInput: The bank holds a task that the parameters do not have.
    """
    bank = Bank(inputs["learnt"] / BANK)
    rows: list[dict[str, Any]] = read_json(inputs["before"])["rows"]
    before = rows[-1]["tasks"] if rows else {}
    settings = Settings(params.train, params.scores, params.runtime)
    extractor = open_extractor(settings, "extractor")
    found: dict[str, dict[str, Any]] = {}
    for task in bank.tasks:
        if task.name not in params.tasks:
            raise MissingInput(f"the bank has a task {task.name} that is not in the list", "learn it again")
        images = load_task(params.tasks[task.name].data)
        generator = stored_generator(bank, task.name)
        found[task.name] = score(generator, images, extractor, settings, before.get(task.name))
    row = {"after": item, "index": len(bank.tasks), "tasks": found}
    write_json(outputs["scores"], {"protocol": _protocol(settings, extractor), "rows": [*rows, row]})
    same = sum(found[name]["outputs_sha256"] == entry["outputs_sha256"] for name, entry in before.items())
    values = {name: entry["value"] for name, entry in found[item]["scores"].items()}
    known = {name: value for name, value in values.items() if value is not None}
    return Outcome({**known, "earlier_tasks": float(len(before)), "unchanged_tasks": float(same)})


def score(
    generator: nn.Module,
    images: TaskImages,
    extractor: Extractor,
    settings: Settings,
    known: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return scores with intervals and the digest of the outputs of one task.

    Args:
        generator: The dense generator of the task.
        images: Its images.
        extractor: What features are.
        settings: `scores` of it count.
        known: The same of an earlier bank; its scores are kept if the outputs are equal.
    """
    part = test_part(images, settings.scores)
    outputs, digest = exact_outputs(generator, part.inputs)
    facts = {
        "outputs_sha256": digest,
        "images": len(outputs),
        "data_fingerprint": images.digest,
        "environment": environment(),
    }
    if known is not None and all(known.get(key) == value for key, value in facts.items()):
        return dict(known)
    return {**facts, "scores": plain(score_outputs(outputs, images, extractor, settings.scores))}


def exact_outputs(generator: nn.Module, inputs: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], str]:
    """Translate images one by one on one thread of the CPU.

    Args:
        generator: The network, on the CPU in evaluation mode.
        inputs: uint8 [N, R, R, 3], N of 1 or more.

    Returns:
        The outputs, uint8 [N, R, R, 3], and the sha256 of the float32 values that they were rounded from.
    """
    made, running = [], hashlib.sha256()
    with exact():
        for image in inputs:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
            output = generator(pixels)
            running.update(output.contiguous().numpy().tobytes())
            made.append(to_uint8(output)[0])
    return np.stack(made), running.hexdigest()


def _protocol(settings: Settings, extractor: Extractor) -> dict[str, Any]:
    scores = settings.scores
    return {
        "extractor": extractor.protocol,
        "confidence": scores.confidence,
        "max_images": scores.max_images,
    }
