"""Pieces of a study that are done once: each leaves one JSON file, and a study goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from graftgan.context import Context
from graftgan.contract import atomic_path, canonical_json, digest_text, read_json
from graftgan.parallel import run_all
from graftgan.world import World, belonging, from_first, meet, world

Record = dict[str, Any]


class Unit(Protocol):
    """One piece of work with a file of its own."""

    @property
    def file(self) -> Path:
        """Where its record goes."""

    def work(self, ctx: Context) -> Record:
        """Do it and return the record."""


@dataclass(frozen=True)
class Share:
    """The units that one process does, one after another.

    Attributes:
        units: The units.
    """

    units: tuple[Unit, ...]


def settings_key(settings: Mapping[str, Any]) -> str:
    """Return a short key of settings, for the folder whose units were made with them."""
    return digest_text(canonical_json(settings))[:12]


def write_record(path: Path, record: Record) -> None:
    """Write a record, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(canonical_json(record) + "\n", encoding="utf-8")


def finish(unit: Unit, ctx: Context) -> Record:
    """Return a unit's record, doing the unit if it has none yet."""
    if not unit.file.is_file():
        write_record(unit.file, unit.work(ctx))
    record: Record = read_json(unit.file)
    return record


def finish_share(share: Share, ctx: Context) -> None:
    """Do all units of a share, and tell of each."""
    for done, unit in enumerate(share.units, 1):
        finish(unit, ctx)
        ctx.log.info("%s: %d of %d", unit.file.stem, done, len(share.units))


def finish_all(units: Sequence[Unit], ctx: Context, threads: int, workers: int) -> list[Record]:
    """Do the units that are not done, in processes, and return all records in the order of the units.

    Under torchrun each worker does its share of the units, alone; they need one folder that all see.

    Raises:
        Interrupted: A signal came; finished units stay.
    """
    waiting = from_first(lambda: [unit for unit in units if not unit.file.is_file()])
    here = world()
    if here.size > 1:
        share = Share(tuple(waiting[here.rank :: here.size]))
        with belonging(World()):
            run_all(finish_share, [share], ctx, threads, 1)
        meet()
        return from_first(lambda: [read_json(unit.file) for unit in units])
    # Dealt out in turns, so that long and short units mix; a process a unit would spend its time on imports.
    shares = [Share(tuple(waiting[i::workers])) for i in range(min(workers, len(waiting)))]
    if shares:
        run_all(finish_share, shares, ctx, threads, workers)
    return [read_json(unit.file) for unit in units]
