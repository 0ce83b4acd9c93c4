"""Sends journals to MLflow in order and without doubling anything, and opens the model registry."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from graftgan.config import Track
from graftgan.context import Registry
from graftgan.contract import digest_text
from graftgan.errors import TryAgain
from graftgan.follower import abandoned
from graftgan.journal import (
    CHALLENGER,
    CHAMPION,
    KILLED,
    Event,
    Marker,
    artifacts_path,
    journals,
    marker_path,
    pending_bytes,
    read_events,
    read_marker,
    write_marker,
)
from graftgan.local_store import held
from graftgan.registry import MlflowRegistry
from graftgan.tracking import Connection, RefusedError

BATCH_EVENTS = 200
_log = logging.getLogger("graftgan")


@dataclass(frozen=True)
class SyncReport:
    """What a synchronisation did.

    Attributes:
        journals: Journals that were looked at.
        events: Events that were sent.
        pending: Bytes of events that still wait.
        refused: Events that the server will never take, each with its words; they are not sent again.
        trouble: Why something still waits.
    """

    journals: int = 0
    events: int = 0
    pending: int = 0
    refused: tuple[str, ...] = ()
    trouble: str = ""

    @property
    def complete(self) -> bool:
        """Whether nothing waits."""
        return self.pending == 0 and not self.trouble

    def __str__(self) -> str:
        lines = [f"{self.journals} journals, {self.events} events sent, {self.pending} bytes wait"]
        lines += [f"refused: {text}" for text in self.refused]
        return "\n".join([*lines, self.trouble] if self.trouble else lines)


def sync(folder: Path, track: Track) -> SyncReport:
    """Send every journal below a folder; what arrived before is left out.

    Args:
        folder: `tracker.journal_root()`, or the folder of one pipeline run.
        track: Where to.

    Raises:
        ConfigError: If `track.uri` is of a kind that cannot be used.
    """
    paths = journals(folder)
    if not paths:
        return SyncReport()
    events, refused, trouble = 0, [], ""
    try:
        connection = Connection(track)
        for path in paths:
            sender = Sender(path, connection)
            try:
                sender.send()
            finally:
                events += sender.sent
                refused += sender.refused
    except TryAgain as error:
        trouble = str(error)
    for text in refused:
        _log.warning("MLflow refuses %s", text)
    return SyncReport(len(paths), events, sum(map(pending_bytes, paths)), tuple(refused), trouble)


def connect_registry(track: Track, path: Path) -> Registry | None:
    """Return the model registry for the stage that writes the journal `path`, or None if the server is away.

    Raises:
        ConfigError: If `track.uri` is of a kind that cannot be used.
    """
    try:
        connection = Connection(track)
    except TryAgain as error:
        _log.warning("no model registry: %s", error.message)
        return None
    return MlflowRegistry(connection, lambda: Sender(path, connection).run_id())


class Sender:
    """Sends one journal.

    Args:
        path: The journal.
        connection: Where to.

    Attributes:
        sent: Events sent so far.
        refused: Events that the server will never take.
    """

    def __init__(self, path: Path, connection: Connection) -> None:
        self._path = path
        self._connection = connection
        self._target = digest_text(connection.track.uri)[:16]
        self._marker = Marker()
        self.sent = 0
        self.refused: list[str] = []

    def run_id(self) -> str:
        """Return the id of the stage's run, made by sending what waits if there is none yet.

        Raises:
            TryAgain: If the server does not answer, or another process is long in sending this journal.
        """
        known = read_marker(self._path)
        if known.run_id and known.target == self._target:
            return known.run_id
        self.send()
        if not self._marker.run_id:
            raise TryAgain(f"{self._path} holds no run", "run the stage again")
        return self._marker.run_id

    def send(self) -> None:
        """Send what waits; a run whose process was killed is ended as such.

        Raises:
            TryAgain: If the server does not answer, or another process that sends this journal does not get
                on for `track.timeout_s`.
        """
        lock = self._path.with_suffix(".sending")
        with held(lock, self._connection.track.timeout_s, marker_path(self._path)):
            self._send()

    def _send(self) -> None:
        self._marker = read_marker(self._path)
        if self._marker.target not in ("", self._target):
            if not pending_bytes(self._path):
                return
            # A run begun on another server cannot go on here; it starts again with what is left of it.
            self._marker = Marker()
        for batch in _batches(read_events(self._path, self._marker.offset)):
            self._apply(batch)
            last = batch[-1]
            self.sent += len(batch)
            self._note(
                offset=last.end, target=self._target, open=bool(self._marker.run_id) and last.kind != "end"
            )
            self._forget(batch)
        if abandoned(self._path):
            for run in (self._marker.run_id, self._marker.parent_id):
                self._guarded("status", lambda run=run: self._connection.set_status(run, KILLED))
            self._note(open=False)

    def _note(self, **changes: Any) -> None:
        self._marker = replace(self._marker, **changes)
        write_marker(self._path, self._marker)

    def _apply(self, batch: list[Event]) -> None:
        event = batch[0]
        if event.kind == "start":
            self._start(event)
        elif not self._marker.run_id:
            self.refused.append(f"{event.kind}: {self._path} has no start")
        elif event.kind == "metrics":
            points = [
                (key, float(value), each.time_ms, int(each.data["step"]))
                for each in batch
                for key, value in each.data["metrics"].items()
            ]
            self._guarded("metrics", lambda: self._connection.log_metrics(self._marker.run_id, points))
        elif event.kind in self._HANDLERS:
            self._guarded(event.kind, lambda: self._HANDLERS[event.kind](self, event))
        else:
            self.refused.append(f"{event.kind}: unknown kind of event")

    def _guarded(self, what: str, action: Any) -> None:
        try:
            action()
        except RefusedError as error:
            self.refused.append(f"{what} of {self._path.name}: {error}")

    def _start(self, event: Event) -> None:
        data, server = event.data, self._connection
        experiment = server.experiment(data["experiment"])
        parent = server.parent(experiment, data["identity"], event.time_ms)
        child = server.child(experiment, parent, data["id"], data["stage"], event.time_ms)
        self._marker = replace(self._marker, run_id=child, parent_id=parent, experiment_id=experiment)
        for run, params in ((parent, data["parent_params"]), (child, data["params"])):
            self._guarded("parameters", lambda run=run, params=params: server.log_params(run, params))
            self._guarded("status", lambda run=run: server.set_status(run, "RUNNING"))
        self._guarded("tags", lambda: server.set_tags(child, data["tags"]))
        revision = {k: v for k, v in data["tags"].items() if "git" in k}
        self._guarded("tags", lambda: server.set_tags(parent, revision))

    def _params(self, event: Event) -> None:
        self._connection.log_params(self._marker.run_id, event.data["params"])

    def _dataset(self, event: Event) -> None:
        fields = [event.data[key] for key in ("name", "digest", "source", "context")]
        # The parent may be new while the stage that made the image set is up to date.
        for run in (self._marker.run_id, self._marker.parent_id):
            self._connection.log_dataset(run, *fields)

    def _tags(self, event: Event) -> None:
        self._connection.set_tags(self._marker.run_id, event.data["tags"])

    def _artifact(self, event: Event) -> None:
        path = self._path.parent / event.data["path"]
        if not path.exists():
            raise RefusedError(f"{path} is gone")
        self._connection.log_artifact(self._marker.run_id, path, event.data["folder"])

    def _end(self, event: Event) -> None:
        server, marker = self._connection, self._marker
        stage = self._path.stem.rsplit("-", 1)[0]
        points = [(f"{stage}.{k}", float(v), event.time_ms, 0) for k, v in event.data["summary"].items()]
        server.log_metrics(marker.parent_id, points)
        for run in (marker.run_id, marker.parent_id):
            server.set_status(run, event.data["status"], event.time_ms)

    def _register(self, event: Event) -> None:
        data = event.data
        package = self._path.parent / data["package"]
        registry = MlflowRegistry(self._connection, lambda: self._marker.run_id)
        version = registry.find(data["name"], data["key"])
        if version is None:
            if not package.exists():
                raise RefusedError(f"{package} is gone")
            version = registry.publish(data["name"], package, data["key"], data["tags"])
        if data["mode"] == "dry-run" or registry.settled(version) is not None:
            return
        if data["mode"] == "off":
            registry.promote(version, CHAMPION, "the gate is off")
        elif registry.champion(data["name"]) is None:
            registry.promote(version, CHAMPION, "first version")
        else:
            registry.promote(version, CHALLENGER, "registered later from the journal, without a comparison")

    _HANDLERS: ClassVar[dict[str, Callable[[Sender, Event], None]]] = {
        "params": _params,
        "dataset": _dataset,
        "tags": _tags,
        "artifact": _artifact,
        "register": _register,
        "end": _end,
    }

    def _forget(self, batch: Iterable[Event]) -> None:
        copies = artifacts_path(self._path)
        for event in batch:
            for key in ("path", "package"):
                if event.kind in ("artifact", "register") and key in event.data:
                    shutil.rmtree((self._path.parent / event.data[key]).parent, ignore_errors=True)
        # Only an empty folder goes, in one step: the stage may copy something into it at any moment.
        with contextlib.suppress(OSError):
            copies.rmdir()


def _batches(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Cut a series of events into runs of metrics, and single events of other kinds."""
    batch: list[Event] = []
    for event in events:
        if batch and (event.kind != "metrics" or batch[0].kind != "metrics" or len(batch) >= BATCH_EVENTS):
            yield batch
            batch = []
        batch.append(event)
    if batch:
        yield batch
