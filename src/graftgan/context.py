"""What a stage is given besides paths and parameters: logger, progress, tracker, registry, stop signal."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from graftgan.errors import Interrupted
from graftgan.progress import PlainProgress, Progress


class Tracker(Protocol):
    """Where a stage reports what it does. Calls never raise and never block for more than a few seconds."""

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log flattened parameters."""

    def log_metrics(self, values: Mapping[str, float], images_seen: int = 0) -> None:
        """Log scalars at a step counted in images seen."""

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Log an input image set with our own digest (at most 36 characters are kept)."""

    def log_artifact(self, path: Path, folder: str = "", only: Sequence[str] = ()) -> None:
        """Copy a file or folder to the run's artifacts; with patterns, `only` the small files that match."""

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run."""


class NullTracker:
    """The tracker that does nothing."""

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log_metrics(self, values: Mapping[str, float], images_seen: int = 0) -> None:
        """Do nothing."""

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Do nothing."""

    def log_artifact(self, path: Path, folder: str = "", only: Sequence[str] = ()) -> None:
        """Do nothing."""

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Registered:
    """One version in a model registry.

    Attributes:
        name: Registered model name.
        version: Version, as text.
        key: Idempotency key: the digest of the package that was registered.
        tags: Its tags.
    """

    name: str
    version: str
    key: str
    tags: Mapping[str, str] = field(default_factory=dict)


class Registry(Protocol):
    """The model registry as the register stage sees it."""

    def available(self) -> bool:
        """Tell whether the registry answers now."""

    def find(self, name: str, key: str) -> Registered | None:
        """Return the version made from the package with this digest."""

    def champion(self, name: str) -> Registered | None:
        """Return the version that bears the alias `champion`."""

    def download(self, version: Registered, folder: Path) -> Path:
        """Fetch the package of a version below `folder` and return its path."""

    def publish(self, name: str, package: Path, key: str, tags: Mapping[str, str]) -> Registered:
        """Make a version from a package folder."""

    def promote(self, version: Registered, alias: str, reason: str) -> None:
        """Move an alias to a version and note the reason on it."""

    def settled(self, version: Registered) -> str | None:
        """Return the alias that a version was given before, once a promotion cut short is finished."""


class StopSignal:
    """Turns SIGTERM and SIGINT into an orderly end.

    Outside `deferred` blocks a signal raises `Interrupted` at once; inside it only sets `requested`,
    and the block is expected to save its state and raise `Interrupted` itself.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = 0

    def install(self) -> None:
        """Take over SIGTERM and SIGINT in this process; call from the main thread."""
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    @contextmanager
    def deferred(self) -> Iterator[StopSignal]:
        """Hold signals back until the block asks for them."""
        self._deferred += 1
        try:
            yield self
        finally:
            self._deferred -= 1

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        again, self.requested = self.requested, True
        if not self._deferred or (again and signum == signal.SIGINT):
            raise Interrupted(f"stopped by {signal.Signals(signum).name}", "run the same command to go on")


@dataclass
class Context:
    """The surroundings of a running stage.

    Attributes:
        state: Folder for training state, keyed by stage, configuration, inputs and code; outlives the stage.
        cache: Folder for features and other things that any stage may find again.
        log: Logger of the stage.
        progress: Progress display.
        tracker: Where metrics and artifacts are reported.
        registry: Model registry, or None where there is none.
        stop: The stop signal.
        resume: "auto" goes on from saved state, "never" starts afresh, "must" fails without state.
    """

    state: Path
    cache: Path
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("graftgan"))
    progress: Progress = field(default_factory=PlainProgress)
    tracker: Tracker = field(default_factory=NullTracker)
    registry: Registry | None = None
    stop: StopSignal = field(default_factory=StopSignal)
    resume: str = "auto"
