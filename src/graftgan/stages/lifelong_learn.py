"""The stage that learns one task of a list and adds it to the bank that the stages before it made."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from graftgan.bank.accounting import costs
from graftgan.bank.store import Bank
from graftgan.bank.tasks import load_task as stored_generator
from graftgan.context import Context
from graftgan.contract import Outcome, write_json
from graftgan.data.pairs import TaskImages, load_task
from graftgan.lifelong_config import LifelongParams
from graftgan.reporting.bank_facts import STANDALONE
from graftgan.reporting.sheets import save_png
from graftgan.stages.lifelong import Learnt, Settings, example_sheet, learn_task
from graftgan.stages.lifelong_create import translator
from graftgan.stages.lifelong_files import EXAMPLES, drop_locks, hand_on, plain, write_task
from graftgan.stages.lifelong_specs import BACK, BANK, TASKS


def run(
    inputs: Mapping[str, Path], params: LifelongParams, outputs: Mapping[str, Path], ctx: Context, item: str
) -> Outcome:
    """Learn the task `item`; interrupted, the same call goes on from the saved state.

    Args:
        inputs: Folder `before`: banks and tasks so far; it is left as it is.
        params: `tasks.NAME`, `train`, `scores` and `runtime`.
        outputs: Folder `learnt`: the same with the new task.
        ctx: Surroundings.
        item: Name of the task.

    Returns:
        Held-out scores and what the task adds to the bank; the state that is then of no more use.

    Raises:
        ConfigError: The settings do not fit the task or the bank.
        DataError: There are too few images.
        Interrupted: A signal came; the state is saved.
    """
    torch.set_num_threads(params.runtime.threads)
    folder, task = outputs["learnt"], params.tasks[item]
    hand_on(inputs["before"], folder)
    bank, back = Bank(folder / BANK), Bank(folder / BACK)
    images = load_task(task.data)
    ctx.tracker.log_dataset(item, images.digest, task.data.target, "training")
    settings = Settings(params.recipe(item), params.scores, params.runtime, task.init)
    learnt = learn_task(bank, item, images, settings, ctx, back, keep_state=True)
    cost = costs(bank)[-1]
    own = folder / TASKS / item
    own.mkdir(parents=True)
    write_task(own, learnt, images, cost)
    save_png(example_sheet(stored_generator(bank, item), images), own / EXAMPLES)
    warnings = learnt.warnings
    if params.scores.standalone:
        # The first task has all filters to itself: it is that model.
        alone = learnt if len(costs(bank)) == 1 else learn_alone(item, images, params, settings, ctx)
        write_json(own / STANDALONE, {"scores": plain(alone.scores)})
        warnings += tuple(f"standalone: {text}" for text in alone.warnings if text not in warnings)
    ctx.tracker.log_artifact(own, TASKS)
    ctx.tracker.log_metrics({"seconds": learnt.history.elapsed_s})
    drop_locks(folder)
    found = {name: estimate.value for name, estimate in sorted(learnt.scores.items())}
    counted = {"added_values": float(cost.added), "bank_ratio": cost.cumulative_ratio}
    return Outcome(found | counted, warnings, (ctx.state,), facts={"switches": dict(learnt.switches)})


def learn_alone(
    item: str, images: TaskImages, params: LifelongParams, settings: Settings, ctx: Context
) -> Learnt:
    """Learn a task as a model of its own: the first task of an empty bank, which goes with the stage's state.

    Raises:
        Interrupted: A signal came; the state is saved.
    """
    place = ctx.state / "standalone"
    shutil.rmtree(place / "banks", ignore_errors=True)
    bank, back = (
        Bank.create(place / "banks" / name, translator(params.bank), params.bank.share)
        for name in (BANK, BACK)
    )
    around = replace(ctx, state=place / "states")
    # The profile of the task itself has the same name.
    runtime = settings.runtime.model_copy(update={"profile": None})
    alone = replace(settings, init="random", runtime=runtime)
    return learn_task(bank, item, images, alone, around, back, keep_state=True)
