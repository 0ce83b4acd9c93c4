"""Pieces of a study that are done once: each leaves one JSON file, and a study goes on where it was."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from graftgan.context import Context
from graftgan.contract import atomic_path, canonical_json, digest_text, read_json, sweep_all
from graftgan.errors import MissingInput
from graftgan.locks import alone_at
from graftgan.parallel import run_all
from graftgan.places import code_digest
from graftgan.world import World, belonging, from_first, is_first, meet, world

Record = dict[str, Any]
# What a record says of the code that made it; records of old do not say.
CODE = "code"
UNKNOWN = "unknown"


class Unit(Protocol):
    """One piece of work with a file of its own."""

    @property
    def file(self) -> Path:
        """Where its record goes."""

    def work(self, ctx: Context) -> Record:
        """Do it and return the record."""


@runtime_checkable
class Saving(Protocol):
    """A unit that saves a state on the way."""

    def state(self, ctx: Context) -> Path:
        """Return where; it is removed once the record is written."""


@runtime_checkable
class Keeping(Protocol):
    """A unit that other units need a file of, which lies beside its record."""

    def check(self, record: Record) -> None:
        """Look whether the file is what the record was written with.

        Raises:
            MissingInput: It is not; names the file.
        """


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


@contextmanager
def alone_in(out: Path, what: str) -> Iterator[None]:
    """Keep other studies out of a folder during the block; of several workers the first does it for all.

    Raises:
        TryAgain: If another process works there.
    """
    if not is_first():
        yield
        return
    with alone_at(out / "study", what):
        yield


def take_up(units: Sequence[Unit], out: Path, ctx: Context) -> None:
    """Do what `ctx.resume` asks for with what earlier starts left, before any unit is done.

    A record of other code is kept, for it may be of hours, and told of; a state of other code is never used.

    Args:
        units: All units of the study.
        out: Its folder, for messages.
        ctx: With `never`, records and states are removed.

    Raises:
        MissingInput: With `must`, if nothing is there to go on with, or other code made some of the records.
    """
    if not is_first():
        return
    for folder in {out, *(unit.file.parent for unit in units)}:
        sweep_all(folder)
    if ctx.resume == "never":
        for unit in units:
            unit.file.unlink(missing_ok=True)
            _drop_state(unit, ctx)
        return
    done = [unit for unit in units if unit.file.is_file() and _is_whole(unit, ctx)]
    begun = any(isinstance(unit, Saving) and unit.state(ctx).is_dir() for unit in units)
    if ctx.resume == "must" and not (done or begun):
        raise MissingInput(f"no finished unit and no saved state in {out}", "use --resume auto")
    other = [unit for unit in done if read_json(unit.file).get(CODE) != code_digest()]
    if not other:
        return
    told = f"{len(other)} of {len(done)} finished units in {out} were made by other code than this"
    if ctx.resume == "must":
        raise MissingInput(told, "use --resume auto to keep them, or never to do all units again")
    ctx.log.warning("%s; they are kept, and the page names it; --resume never does them again", told)


def _is_whole(unit: Unit, ctx: Context) -> bool:
    """Tell whether a record can be read and has what it needs beside it; else it is named and removed.

    Raises:
        MissingInput: With `must`, if it is to be made again.
    """
    file = unit.file
    try:
        record = read_json(file)
        if not isinstance(record, dict):
            raise MissingInput(f"{file} is not a record")
        if isinstance(unit, Keeping):
            unit.check(record)
    except MissingInput as error:
        if ctx.resume == "must":
            raise MissingInput(error.message, "use --resume auto to do its unit again") from None
        ctx.log.warning("%s; its unit is done again", error.message)
        file.unlink()
        return False
    return True


def made_by(records: Sequence[Record]) -> str:
    """Return the digest of the code that made records, with their number where there are several."""
    counts = Counter(str(record.get(CODE, UNKNOWN))[:12] for record in records)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{code} ({number})" for code, number in sorted(counts.items()))


def finish(unit: Unit, ctx: Context) -> Record:
    """Return a unit's record, doing the unit if it has none yet."""
    if not unit.file.is_file():
        write_record(unit.file, {**unit.work(ctx), CODE: code_digest()})
    # Not before: who dies between the two would have to begin again.
    _drop_state(unit, ctx)
    record: Record = read_json(unit.file)
    return record


def _drop_state(unit: Unit, ctx: Context) -> None:
    if isinstance(unit, Saving):
        shutil.rmtree(unit.state(ctx), ignore_errors=True)


def finish_share(share: Share, ctx: Context) -> None:
    """Do all units of a share, and tell of each."""
    for done, unit in enumerate(share.units, 1):
        finish(unit, ctx)
        ctx.log.info("%s: %d of %d", unit.file.stem, done, len(share.units))


def _waiting(units: Sequence[Unit], ctx: Context) -> list[Unit]:
    """Return the units without a record; what the others' states left behind a kill goes."""
    waiting = []
    for unit in units:
        if unit.file.is_file():
            _drop_state(unit, ctx)
        else:
            waiting.append(unit)
    return waiting


def finish_all(units: Sequence[Unit], ctx: Context, threads: int, workers: int) -> list[Record]:
    """Do the units that are not done, in processes, and return all records in the order of the units.

    Under torchrun each worker does its share of the units, alone; they need one folder that all see.

    Raises:
        Interrupted: A signal came; finished units stay.
    """
    waiting = from_first(lambda: _waiting(units, ctx))
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
