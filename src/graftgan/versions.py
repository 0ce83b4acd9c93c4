"""Versions of a registered model: show, promote, take back, compare. What the commands of the registry do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftgan.bank.package import is_bank, load_bank_package
from graftgan.bank.tasks import load_task
from graftgan.context import Registered
from graftgan.contract import read_json
from graftgan.errors import ConfigError
from graftgan.journal import CHAMPION, REASON_TAG, SUPERSEDED_TAG
from graftgan.packages import FACTS, load_package
from graftgan.registry import MlflowRegistry
from graftgan.registry_answers import fetching, split
from graftgan.reporting.numbers import Interval, decimals_for, number, text

PROTOCOL = ("dataset", "protocol")


@dataclass(frozen=True)
class Facts:
    """A version and the content of its package's `model.json`."""

    version: Registered
    facts: Mapping[str, Any]


def table(registry: MlflowRegistry, name: str) -> list[str]:
    """Return a line for each version of a model: aliases, key scores and why it stands where it does.

    Raises:
        ConfigError: If there is no such model.
        TryAgain: If the registry does not answer.
    """
    aliases = registry.aliases(name)
    by_version: dict[str, list[str]] = {}
    for alias, bearer in aliases.items():
        by_version.setdefault(bearer, []).append(alias)
    lines = []
    for version in registry.versions(name):
        names = ", ".join(sorted(by_version.get(version.version, []))) or "-"
        # A tag of a stranger may hold lines, and orders for a terminal.
        reason = "".join(c if c.isprintable() else " " for c in version.tags.get(REASON_TAG, ""))
        lines.append(f"{version.version:>4}  {names:12}  {version.key[:12]:12}  {reason}".rstrip())
    return lines


def promote(registry: MlflowRegistry, name: str, which: str, alias: str, reason: str) -> str:
    """Move an alias to a version, once its package was fetched, loaded strictly and drew a picture.

    Of a bank every task is loaded.

    Args:
        registry: The registry.
        name: Registered model name.
        which: Version or alias.
        alias: `champion`, `challenger` or another.
        reason: Noted on the version.

    Raises:
        ConfigError: If there is no such version.
        CheckpointError: If its package is damaged; no alias moves then.
        TryAgain: If the registry does not answer.
    """
    version = registry.version(name, which)
    before = registry.aliases(name).get(alias)
    if before == version.version:
        registry.settled(version)
        return f"{name}: version {before} already is {alias}"
    _try_out(registry, version)
    registry.promote(version, alias, reason)
    was = f", in place of version {before}" if before else ""
    return f"{name}: version {version.version} is {alias}{was}"


def rollback(registry: MlflowRegistry, name: str, reason: str) -> str:
    """Give the alias `champion` back to the version that bore it before.

    A second call goes back one more, never to and fro; after one that was cut short it finishes that.

    Raises:
        ConfigError: If there is no champion, or none before it.
        CheckpointError: If the earlier version's package is damaged; no alias moves then.
        TryAgain: If the registry does not answer.
    """
    now = registry.version(name, CHAMPION)
    if successor := now.tags.get(SUPERSEDED_TAG):
        now = registry.version(name, successor)
    earlier = registry.predecessor(now)
    if earlier is None:
        raise ConfigError(
            f"{name}: no version was champion before version {now.version}",
            "choose one: `graftgan versions` lists them, `graftgan promote` moves the alias",
        )
    version = registry.version(name, earlier)
    _try_out(registry, version)
    registry.restore(version, now, reason)
    return f"{name}: version {version.version} is {CHAMPION} again, version {now.version} is not"


def compare(registry: MlflowRegistry, name: str, first: str, second: str) -> list[str]:
    """Return a table of two versions' scores with their intervals, and what keeps them from being compared.

    Raises:
        ConfigError: If there is no such version.
        TryAgain: If the registry does not answer.
    """
    left, right = (_facts(registry, registry.version(name, which)) for which in (first, second))
    lines = [f"{'':22}  {'version ' + left.version.version:28}  version {right.version.version}"]
    for key in ("method", "source", "seed", "dataset", "code"):
        mine, theirs = (str(side.facts["provenance"].get(key) or "-")[:12] for side in (left, right))
        lines.append(f"{key:22}  {mine:28}  {theirs}{'' if mine == theirs else '  *'}")
    scores = [side.facts["scores"] for side in (left, right)]
    for score in sorted(set(scores[0]) | set(scores[1])):
        lines.append(f"{score:22}  {_score(scores[0].get(score)):28}  {_score(scores[1].get(score))}")
    for key in PROTOCOL:
        mine, theirs = (side.facts["provenance"].get(key) for side in (left, right))
        if mine != theirs:
            lines.append(f"The {key} differs: the scores cannot be compared.")
    return lines


def _score(score: Mapping[str, Any] | None) -> str:
    value, low, high = (number((score or {}).get(key)) for key in ("value", "low", "high"))
    if value is None:
        return "-"
    digits = decimals_for([Interval(value, low, high)])
    if low is None or high is None:
        return text(value, digits)
    return f"{text(value, digits)} ({text(low, digits)} to {text(high, digits)})"


def named(registry: MlflowRegistry, model: str) -> Registered:
    """Return the version that `NAME@ALIAS`, `NAME/VERSION` or `NAME`, its champion, names.

    Raises:
        ConfigError: If there is none.
        TryAgain: If the registry does not answer.
    """
    name, which = split(model)
    return registry.version(name, which or CHAMPION)


@contextmanager
def fetched(registry: MlflowRegistry, model: str) -> Iterator[tuple[Path, str]]:
    """Give the package folder and the full name of a version, named as `named` takes it.

    Raises:
        ConfigError: If there is none.
        TryAgain: If the registry does not answer.
    """
    version = named(registry, model)
    with fetching() as scratch:
        yield registry.download(version, scratch), f"{version.name}, version {version.version}"


def _facts(registry: MlflowRegistry, version: Registered) -> Facts:
    with fetching() as scratch:
        return Facts(version, read_json(registry.download(version, scratch) / FACTS))


def _try_out(registry: MlflowRegistry, version: Registered) -> None:
    with fetching() as scratch:
        folder = registry.download(version, scratch)
        if not is_bank(read_json(folder / FACTS)):
            load_package(folder).sample(1, 0)
            return
        package = load_bank_package(folder)
        for task in package.tasks:
            load_task(package.bank, task)
