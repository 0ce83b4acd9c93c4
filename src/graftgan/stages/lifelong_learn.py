"""The stage that learns one task of a list and adds it to the bank that the stages before it made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from graftgan.bank.accounting import costs
from graftgan.bank.store import Bank
from graftgan.bank.tasks import load_task as stored_generator
from graftgan.context import Context
from graftgan.contract import Outcome
from graftgan.data.pairs import load_task
from graftgan.lifelong_config import LifelongParams
from graftgan.reporting.sheets import save_png
from graftgan.stages.lifelong import Settings, example_sheet, learn_task
from graftgan.stages.lifelong_files import EXAMPLES, drop_locks, hand_on, write_task
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
    ctx.tracker.log_artifact(own, TASKS)
    ctx.tracker.log_metrics({"seconds": learnt.history.elapsed_s})
    drop_locks(folder)
    found = {name: estimate.value for name, estimate in sorted(learnt.scores.items())}
    counted = {"added_values": float(cost.added), "bank_ratio": cost.cumulative_ratio}
    return Outcome(found | counted, learnt.warnings, (ctx.state,))
