"""What a stage reports to: events go to the journal at once, and a follower process sends them on.

The stage's own process never talks to the tracking server and never imports its client, so a server that is
slow, away or killed costs a stage nothing but the bounded wait in `drain`.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from graftgan.config import Params
from graftgan.context import NullTracker, Registry, Tracker
from graftgan.errors import Interrupted
from graftgan.follower import check_uri, follow, located, reachable
from graftgan.identity import RunIdentity, git_revision, pipeline_sections, resolve_identity
from graftgan.journal import FAILED, FINISHED, KILLED, SUFFIX, Event, Journal, read_events
from graftgan.lifelong_config import LifelongParams
from graftgan.params import config_digest, flatten, leaves
from graftgan.places import home
from graftgan.redaction import redacted
from graftgan.stages.specs import StageSpec, stage

MAX_DATASET_DIGEST = 36
MAX_PARAM = 6000
# Of one file that is picked out of a folder; a larger one would hold up the stage, and fill the store.
MAX_PICKED_BYTES = 16 << 20
SYSTEM_EVERY_S = 10.0
SYSTEM_LEAST_S = 1.0
# Each loss of the race takes a removal between two system calls.
FOLDER_TRIES = 20
_log = logging.getLogger("graftgan")


def journal_root() -> Path:
    """Return the folder of all journals."""
    return home() / "journal"


@dataclass
class Past:
    """What an interrupted attempt had reported already.

    Attributes:
        id: Its identity on the server.
        seen: Largest `images_seen` of each metric; 0 is no step but a final value, which may come again.
        system: Number of its system samples.
        last: Last value of each final metric.
    """

    id: str
    seen: dict[str, int] = field(default_factory=dict)
    system: int = 0
    last: dict[str, float] = field(default_factory=dict)


class JournalTracker(NullTracker):
    """A tracker of one stage that writes to a journal. No call raises; each costs one appended line.

    Attributes:
        path: The journal.
    """

    def __init__(self, journal: Journal, past: Past, system_metrics: bool) -> None:
        self.path = journal.path
        self._journal: Journal | None = journal
        self._past = past
        self._system = _SystemSampler() if system_metrics else None
        self._sampled_s = time.monotonic()

    def _append(self, kind: str, durable: bool = False, **data: Any) -> bool:
        if self._journal is None:
            return False
        try:
            self._journal.append(kind, durable, **data)
            return True
        except OSError as error:
            _log.warning("tracking stops here: %s cannot be written: %s", self.path, error)
            self._journal = None
            return False

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; nested ones are flattened, and secrets blotted out."""
        flat = flatten(dict(values))
        self._append("params", params={key: param_text(key, value) for key, value in flat.items()})

    def log_metrics(self, values: Mapping[str, float], images_seen: int = 0) -> None:
        """Log scalars at a step counted in images seen; steps that an earlier attempt logged are left out."""
        seen, last = self._past.seen, self._past.last
        fresh = {k: float(v) for k, v in values.items() if not seen.get(k) or seen[k] < images_seen}
        if images_seen == 0:
            last |= fresh
        else:
            self._past.last = {k: v for k, v in last.items() if k not in fresh}
        if fresh:
            self._append("metrics", metrics=fresh, step=int(images_seen))
        if time.monotonic() - self._sampled_s > SYSTEM_EVERY_S:
            self._sample_system()

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Log an input image set with our own digest, cut to the 36 characters that MLflow allows."""
        source = redacted("source", source)
        self._append("dataset", name=name, digest=digest[:MAX_DATASET_DIGEST], source=source, context=context)

    def log_artifact(self, path: Path, folder: str = "", only: Sequence[str] = ()) -> None:
        """Copy a file or folder to the run's artifacts; it may change or go afterwards.

        Args:
            path: The file or folder.
            folder: Folder of the artifacts that it is put in, under its own name.
            only: Patterns below `path`; only files that match one, of at most `MAX_PICKED_BYTES`, are copied.
        """
        if copied := self._copy(path, only):
            self._append("artifact", path=copied, folder=folder)

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run, with secrets blotted out."""
        self._append("tags", tags={key: redacted(key, str(value)) for key, value in values.items()})

    def request_registration(
        self, name: str, key: str, package: Path, tags: Mapping[str, str], mode: str
    ) -> bool:
        """Note that a package waits to be registered; tell whether the note was kept."""
        copied = self._copy(package)
        if not copied:
            return False
        return self._append("register", True, name=name, key=key, package=copied, tags=dict(tags), mode=mode)

    def close(self, status: str) -> None:
        """End the run; the final metrics are repeated for the parent run."""
        if time.monotonic() - self._sampled_s > SYSTEM_LEAST_S:
            self._sample_system()
        self._append("end", True, status=status, summary=self._past.last)
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _copy(self, path: Path, only: Sequence[str] = ()) -> str:
        if self._journal is None:
            return ""
        target = self._journal.artifacts / uuid.uuid4().hex[:12] / path.name
        try:
            picked = _picked(path, only)
            if only and not picked:
                return ""
            _make_folder(target.parent)
            if only:
                for file in picked:
                    copy = target / file.relative_to(path)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(file, copy)
            elif path.is_dir():
                shutil.copytree(path, target)
            else:
                shutil.copy2(path, target)
        except OSError as error:
            _log.warning("%s is not logged: %s", path, error)
            shutil.rmtree(target.parent, ignore_errors=True)
            return ""
        return target.relative_to(self.path.parent).as_posix()

    def _sample_system(self) -> None:
        self._sampled_s = time.monotonic()
        if self._system is not None and (values := self._system.sample()):
            self._append("metrics", metrics=values, step=self._past.system)
            self._past.system += 1


def _make_folder(folder: Path) -> None:
    """Make a new folder; who sends may remove the one around it, empty, in between."""
    for _ in range(FOLDER_TRIES - 1):
        # "Exists", too: pathlib says so of a parent that was there and is gone when it looks again.
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            return folder.mkdir(parents=True)
    folder.mkdir(parents=True)


def _picked(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Return the files of a folder that match a pattern and are small enough, each once."""
    files = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    large = {path for path in files if path.stat().st_size > MAX_PICKED_BYTES}
    for path in sorted(large):
        _log.info("%s is not logged: it is larger than %d bytes", path, MAX_PICKED_BYTES)
    return sorted(files - large)


class _SystemSampler:
    """Use of CPU, memory and GPU since the last sample; nothing without psutil."""

    def __init__(self) -> None:
        try:
            import psutil  # type: ignore[import-untyped]
        except ImportError:
            self._psutil: Any = None
            return
        self._psutil = psutil
        self._process = psutil.Process()
        psutil.cpu_percent()
        self._process.cpu_percent()

    def sample(self) -> dict[str, float]:
        if self._psutil is None:
            return {}
        memory = self._psutil.virtual_memory()
        values = {
            "system/cpu_utilization_percentage": self._psutil.cpu_percent(),
            "system/process_cpu_percentage": self._process.cpu_percent(),
            "system/process_memory_megabytes": self._process.memory_info().rss / 1e6,
            "system/system_memory_usage_percentage": memory.percent,
        }
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
            values["system/gpu_memory_megabytes"] = torch.cuda.memory_allocated() / 1e6
            values["system/gpu_memory_reserved_megabytes"] = torch.cuda.memory_reserved() / 1e6
            # NVML is a package of its own that torch calls; without it there is no utilisation.
            with contextlib.suppress(Exception):
                values["system/gpu_utilization_percentage"] = float(torch.cuda.utilization())
        return values


def param_text(key: str, value: Any) -> str:
    """Return a parameter as MLflow takes it: text without secrets, of at most 6,000 characters."""
    return redacted(key, str(value))[:MAX_PARAM]


@contextmanager
def open_tracker(
    params: Params | LifelongParams,
    name: str,
    identity: RunIdentity | None = None,
    spec: StageSpec | None = None,
) -> Iterator[Tracker]:
    """Give the tracker of one run of a stage, as `params.track` asks.

    With `track.mode: journal` or `live` events go to `<home>/journal/<run key>/<stage>-<n>.jsonl`. An attempt
    that was interrupted with the same configuration is continued in the same file and run; a finished one is
    left alone and the next number taken. In `live` mode a follower process, one for all stages of this
    process, sends the lines on. The block's end writes the status and does not wait; call `follower.drain`
    before the process ends.

    Args:
        params: All parameters.
        name: Name of the stage.
        identity: The pipeline run; by default found by `resolve_identity`.
        spec: The stage's description, where it is not one of the transfer pipeline.

    Raises:
        ConfigError: If `track.uri` is of a kind that cannot be used.
    """
    if params.track.mode == "off":
        yield NullTracker()
        return
    track = located(params.track)
    if track.mode == "live":
        check_uri(track.uri)
    identity = identity or resolve_identity(params)
    selected = (spec or stage(name)).params
    config = config_digest(params, selected)
    try:
        path, past, lock = _claim(journal_root() / identity.key, name, config)
        journal = Journal(path)
    except OSError as error:
        _log.warning("tracking is off: %s cannot be written: %s", journal_root(), error)
        yield NullTracker()
        return
    try:
        _begin(journal, past, identity, params, name, selected)
        tracker = JournalTracker(journal, past, track.system_metrics)
        if track.mode == "live":
            follow(path.parent, track)
        yield from _reported(tracker)
    finally:
        lock.release()


def open_registry(params: Params | LifelongParams, tracker: Tracker) -> Registry | None:
    """Return the model registry for the register stage.

    Args:
        params: All parameters.
        tracker: The stage's tracker, as `open_tracker` gave it; versions are linked to its run.

    Returns:
        The registry, or None where tracking is not live, MLflow is not installed or the server is away; the
        stage then leaves its request in the journal.
    """
    if params.track.mode != "live" or not isinstance(tracker, JournalTracker):
        return None
    track = located(params.track)
    if not reachable(track.uri, track.timeout_s):
        _log.warning("no model registry: MLflow at %s does not answer", redacted("uri", track.uri))
        return None
    try:
        from graftgan.sync import connect_registry
    except ImportError:
        _log.warning("no model registry: mlflow is not installed; `pip install graftgan[track]`")
        return None
    return connect_registry(track, tracker.path)


def _reported(tracker: JournalTracker) -> Iterator[Tracker]:
    try:
        yield tracker
    except BaseException as error:
        tracker.set_tags({"graftgan.error": type(error).__name__})
        tracker.close(KILLED if isinstance(error, Interrupted | KeyboardInterrupt) else FAILED)
        raise
    tracker.close(FINISHED)


def _claim(folder: Path, name: str, config: str) -> tuple[Path, Past, FileLock]:
    """Find or number the journal of this attempt, and lock it against other processes."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        number += 1
        path = folder / f"{name}-{number}{SUFFIX}"
        lock = FileLock(path.with_suffix(".lock"))
        try:
            # Not zero: a sync looks at this lock for a moment to see whether the writer lives.
            lock.acquire(timeout=0.5)
        except Timeout:
            continue
        events = list(read_events(path))
        if not events:
            return path, Past(uuid.uuid4().hex), lock
        if _interrupted(events, config):
            return path, _past(events), lock
        lock.release()


def _interrupted(events: list[Event], config: str) -> bool:
    starts = [event for event in events if event.kind == "start"]
    same = bool(starts) and starts[-1].data["config"] == config
    return same and not (events[-1].kind == "end" and events[-1].data["status"] == FINISHED)


def _past(events: list[Event]) -> Past:
    past = Past(next(event for event in events if event.kind == "start").data["id"])
    for event in events:
        if event.kind != "metrics":
            continue
        step = int(event.data["step"])
        if any(key.startswith("system/") for key in event.data["metrics"]):
            past.system = step + 1
            continue
        for key, value in event.data["metrics"].items():
            past.seen[key] = max(past.seen.get(key, 0), step)
            if past.seen[key] == 0:
                past.last[key] = float(value)
            else:
                past.last.pop(key, None)
    return past


def _begin(
    journal: Journal,
    past: Past,
    identity: RunIdentity,
    params: Params | LifelongParams,
    name: str,
    selected: Sequence[str],
) -> None:
    config = config_digest(params, selected)
    tags = {"graftgan.stage": name, "graftgan.config": config[:32]}
    if revision := git_revision():
        tags |= {
            "mlflow.source.git.commit": revision.removesuffix("-dirty"),
            "graftgan.git_revision": revision,
        }
    whole = leaves(params, pipeline_sections(params))
    mine = leaves(params, selected)
    with contextlib.suppress(OSError):
        journal.append(
            "start",
            id=past.id,
            stage=name,
            config=config,
            identity=asdict(identity),
            experiment=params.track.experiment,
            tags=tags,
            params={key: param_text(key, value) for key, value in mine.items()},
            parent_params={key: param_text(key, value) for key, value in whole.items()},
        )
