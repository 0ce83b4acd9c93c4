"""Progress for people: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console

LINE_EVERY_S = 10.0


class Task(Protocol):
    """One piece of work under way."""

    def advance(self, images: int, scores: Mapping[str, float] | None = None) -> None:
        """Add `images` done, and show the latest scores."""

    def close(self) -> None:
        """End the display of this piece."""


class Progress(Protocol):
    """A display of tasks."""

    def task(self, name: str, total: int, done: int = 0) -> Task:
        """Start a task of `total` images, `done` of which were done earlier."""


def describe(scores: Mapping[str, float]) -> str:
    """Return scores as `name value` pairs of four digits."""
    return "  ".join(f"{name} {value:.4g}" for name, value in scores.items())


def clock(seconds: float) -> str:
    """Return a duration as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass
class PlainTask:
    """A task that writes one line every ten seconds, and one at its end."""

    name: str
    total: int
    done: int
    stream: TextIO
    started: float = field(default_factory=time.monotonic)
    shown: float = field(default_factory=time.monotonic)
    first: int = 0
    scores: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.first = self.done

    def advance(self, images: int, scores: Mapping[str, float] | None = None) -> None:
        """Add `images` done; write a line when ten seconds have gone since the last."""
        self.done += images
        self.scores |= scores or {}
        if time.monotonic() - self.shown >= LINE_EVERY_S and self.done < self.total:
            self._line()

    def close(self) -> None:
        """Write the last line."""
        self._line()

    def _line(self) -> None:
        self.shown = time.monotonic()
        elapsed = max(self.shown - self.started, 1e-9)
        rate = (self.done - self.first) / elapsed
        eta = clock((self.total - self.done) / rate) if rate > 0 else "-"
        share = 100 * self.done // max(self.total, 1)
        text = f"{self.name}: {self.done}/{self.total} images ({share} %), {rate:.0f} img/s, ETA {eta}"
        self.stream.write(f"{text}  {describe(self.scores)}".rstrip() + "\n")
        self.stream.flush()


class NullProgress:
    """No display at all; each task of it is the display itself."""

    def task(self, name: str, total: int, done: int = 0) -> Task:
        """Start nothing."""
        return self

    def advance(self, images: int, scores: Mapping[str, float] | None = None) -> None:
        """Show nothing."""

    def close(self) -> None:
        """End nothing."""


class PlainProgress:
    """Lines for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    def task(self, name: str, total: int, done: int = 0) -> Task:
        """Start a task that writes plain lines."""
        return PlainTask(name, total, done, self._stream)


class RichProgress:
    """Live bars with images per second, ETA and the latest scores; use as a context manager.

    Args:
        console: Where to draw; None means standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[rate]} img/s  ETA"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[scores]}"),
            console=console or Console(stderr=True),
        )

    def __enter__(self) -> RichProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def handler(self) -> logging.Handler:
        """Return a log handler that writes above the bars."""
        from rich.logging import RichHandler

        return RichHandler(console=self._bars.console, show_time=False, show_path=False, markup=False)

    def task(self, name: str, total: int, done: int = 0) -> Task:
        """Start a bar."""
        return RichTask(self._bars, name, total, done)


class RichTask:
    """One bar of `RichProgress`."""

    def __init__(self, bars: Any, name: str, total: int, done: int) -> None:
        self._bars = bars
        self._id = bars.add_task(name, total=total, completed=done, rate="-", scores="")
        self._scores: dict[str, float] = {}

    def advance(self, images: int, scores: Mapping[str, float] | None = None) -> None:
        """Move the bar on."""
        self._scores |= scores or {}
        speed = self._bars.tasks[self._id].speed
        rate = f"{speed:.0f}" if speed else "-"
        self._bars.update(self._id, advance=images, rate=rate, scores=describe(self._scores))

    def close(self) -> None:
        """Stop the bar's clock."""
        self._bars.stop_task(self._id)
