"""The stage that registers a bank as a model; it becomes champion if it has every task of the present one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graftgan.bank.manifest import Task
from graftgan.bank.package import BankPackage, load_bank_package, write_bank_package
from graftgan.bank.store import Bank
from graftgan.context import Context, Registered, Registry
from graftgan.contract import Outcome, canonical_json, digest_path, digest_text, read_json, size_bytes
from graftgan.errors import CheckpointError, MissingInput, TryAgain
from graftgan.identity import git_revision
from graftgan.journal import CHALLENGER, CHAMPION
from graftgan.lifelong_config import LifelongParams
from graftgan.places import code_digest
from graftgan.reporting.bank_tables import bank_card
from graftgan.stages.lifelong_files import EXAMPLES, read_tasks
from graftgan.stages.register import Candidate, Verdict, settle, tell


def run(
    inputs: Mapping[str, Path], params: LifelongParams, outputs: Mapping[str, Path], ctx: Context
) -> Outcome:
    """Write the package and register it; without a registry, leave a request in the journal.

    Args:
        inputs: Folders `bank` and `tasks`, files `scores` and `proof`.
        params: `tasks` and `registry`.
        outputs: Folder `package`.
        ctx: Surroundings; `ctx.registry` may be None. The decision is left in `ctx.state / "decision.json"`.

    Returns:
        Size of the package in bytes; what the registry decided is volatile and not part of it.

    Raises:
        MissingInput: An input is absent or incomplete.
        CheckpointError: The bank cannot be read.
    """
    package = outputs["package"]
    facts = pack(inputs, params, package)
    new = load_bank_package(package)
    name, mode = params.registry.name, params.registry.gate
    candidate = Candidate(name, mode, package, digest_path(package), tags(facts))
    decision = settle(candidate, lambda registry: judge(registry, name, mode, new, ctx), ctx)
    tell(name, decision, ctx)
    return Outcome({"package_bytes": float(size_bytes(package)), "tasks": float(len(new.tasks))})


def pack(inputs: Mapping[str, Path], params: LifelongParams, package: Path) -> dict[str, Any]:
    """Write the package of a bank into an existing folder and return its facts."""
    tasks, scores, proof = (
        read_tasks(inputs["tasks"]), read_json(inputs["scores"]), read_json(inputs["proof"]),
    )  # fmt: skip
    bank = Bank(inputs["bank"])
    facts = {
        "spec": bank.spec.to_dict(),
        "lambda": bank.manifest.share,
        "tasks": {name: _about(params, bank.task(name)) for name in params.tasks},
        "provenance": {
            "dataset": digest_text(canonical_json([task.data_fingerprint for task in bank.tasks])),
            "bank": bank.head,
            "code": code_digest(),
            "protocol": scores["protocol"]["extractor"],
        },
        "scores": {
            f"{name}.{metric}": {key: raw.get(key) for key in ("value", "low", "high")}
            for name, entry in scores["rows"][-1]["tasks"].items()
            for metric, raw in entry["scores"].items()
        },
    }
    card = bank_card(params.registry.name, facts, tasks, scores, proof)
    write_bank_package(inputs["bank"], package, facts, card)
    for name in params.tasks:
        (package / "examples").mkdir(exist_ok=True)
        shutil.copyfile(inputs["tasks"] / name / EXAMPLES, package / "examples" / f"{name}.png")
    return facts


def _about(params: LifelongParams, task: Task) -> dict[str, Any]:
    data = params.tasks[task.name].data
    return {
        "index": task.index,
        "kind": data.kind,
        "make": data.make,
        "background": data.background,
        "size_px": task.outputs.size_px,
        "init": task.init,
        "data_fingerprint": task.data_fingerprint,
    }


def tags(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags by which a version can be searched for: tasks, generator, lambda, data, code, git."""
    known = {name: str(value) for name, value in facts["provenance"].items()}
    return {f"graftgan.{name}": value for name, value in known.items()} | {
        "graftgan.family": facts["spec"]["family"],
        "graftgan.generator": facts["spec"]["kind"],
        "graftgan.lambda": canonical_json(facts["lambda"]),
        "graftgan.tasks": ",".join(facts["tasks"]),
        **({"graftgan.git_revision": revision} if (revision := git_revision()) else {}),
    }


def judge(registry: Registry, name: str, mode: str, new: BankPackage, ctx: Context) -> Verdict:
    """Tell which alias a new bank deserves beside the present champion.

    Raises:
        TryAgain: The registry stopped answering.
    """
    champion = registry.champion(name)
    if champion is None:
        return Verdict(CHAMPION, "it is the first bank of this name")
    if mode == "off":
        return Verdict(CHAMPION, "the gate is off", champion.version)
    old = _rival(registry, champion, ctx)
    if old is None:
        reason = f"the champion, version {champion.version}, cannot be read"
        return Verdict(CHALLENGER, reason, champion.version)
    return compare(old.bank.tasks, new.bank.tasks, champion.version)


def _rival(registry: Registry, champion: Registered, ctx: Context) -> BankPackage | None:
    folder = ctx.cache / "champions" / digest_text(f"{champion.name} {champion.key}")[:32]
    try:
        return load_bank_package(registry.download(champion, folder))
    except (TryAgain, MissingInput, CheckpointError) as error:
        if not registry.available():
            raise TryAgain("the registry stopped answering", "run `graftgan sync` later") from error
        return None


def compare(old: Sequence[Task], new: Sequence[Task], champion: str) -> Verdict:
    """Compare two banks: the new one takes the place if it has all tasks of the old one, bit for bit.

    Args:
        old: Tasks of the champion.
        new: Tasks of the new bank.
        champion: Version of the champion.
    """
    there = {task.name: task for task in new}
    lost = [task.name for task in old if task.name not in there]
    changed = [task.name for task in old if task.name in there and not same(task, there[task.name])]
    if not lost and not changed:
        more = len(new) - len(old)
        reason = (
            f"it has all {len(old)} tasks of the champion (version {champion}) bit for bit, and {more} more"
        )
        return Verdict(CHAMPION, reason, champion)
    told = [f"it lacks {', '.join(lost)}"] if lost else []
    told += [f"it has changed {', '.join(changed)}"] if changed else []
    return Verdict(CHALLENGER, f"{' and '.join(told)} of the champion (version {champion})", champion)


def same(old: Task, new: Task) -> bool:
    """Tell whether two tasks have the same filters, mixtures, biases and norms, and make the same images."""
    return (old.prefix_sha256, old.tensor_sha256, old.outputs.sha256) == (
        new.prefix_sha256,
        new.tensor_sha256,
        new.outputs.sha256,
    )
