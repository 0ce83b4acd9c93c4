"""Independent pieces of work in processes of their own; the parent shows their progress and metrics."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from graftgan.config import Runtime
from graftgan.context import Context, NullTracker, StopSignal
from graftgan.errors import Ending, GraftganError, Interrupted
from graftgan.progress import Task

Piece = TypeVar("Piece")
Answer = TypeVar("Answer")
POLL_S = 0.2
SAVE_WITHIN_S = 60.0


@dataclass(frozen=True)
class Surroundings:
    """The parts of a context that cross into a child process."""

    state: Path
    cache: Path
    resume: str
    threads: int


class RelayTask:
    """A task whose display is in the parent."""

    def __init__(self, messages: Any, key: tuple[int, int], name: str, total: int, done: int) -> None:
        self._messages, self._key = messages, key
        messages.put(("task", key, name, total, done))

    def advance(self, images: int, scores: Mapping[str, float] | None = None) -> None:
        """Send the step to the parent."""
        self._messages.put(("advance", self._key, images, dict(scores or {})))

    def close(self) -> None:
        """Tell the parent that the task is over."""
        self._messages.put(("close", self._key))


class RelayProgress:
    """A progress display that lives in the parent."""

    def __init__(self, messages: Any, worker: int) -> None:
        self._messages, self._worker = messages, worker
        self._count = 0

    def task(self, name: str, total: int, done: int = 0) -> Task:
        """Start a task in the parent's display."""
        self._count += 1
        return RelayTask(self._messages, (self._worker, self._count), name, total, done)


class RelayTracker(NullTracker):
    """A tracker that sends metrics to the parent's; what else a child logs is dropped."""

    def __init__(self, messages: Any) -> None:
        self._messages = messages

    def log_metrics(self, values: Mapping[str, float], images_seen: int = 0) -> None:
        """Send metrics to the parent."""
        self._messages.put(("metrics", dict(values), images_seen))


class RelayHandler(logging.Handler):
    """A log handler that sends records to the parent."""

    def __init__(self, messages: Any) -> None:
        super().__init__()
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        """Send level and text."""
        self._messages.put(("log", record.levelno, record.getMessage()))


def processes(runtime: Runtime) -> int:
    """Return how many processes a worker may have at once.

    It is `runtime.workers` on a CPU, and one where they would share a GPU or stand beside other workers.
    """
    from graftgan.device import pick_device
    from graftgan.world import world

    if world().size > 1:
        return 1
    return runtime.workers if pick_device(runtime.device).type == "cpu" else 1


def run_all(
    function: Callable[[Piece, Context], Answer],
    pieces: Sequence[Piece],
    ctx: Context,
    threads: int,
    at_once: int,
) -> list[Answer]:
    """Call `function(piece, ctx)` for every piece.

    With `at_once` 1 everything happens in this process; the answers are the same. Else a process takes one
    piece after another, since starting one costs seconds of imports. `function` must be importable by name,
    pieces and answers picklable. A signal is passed on to the children, which save
    their state.

    Raises:
        GraftganError: The first failure of a piece.
        Interrupted: A signal came; every piece saved its state.
    """
    if at_once <= 1 or len(pieces) <= 1:
        _set_threads(threads)
        return [function(piece, ctx) for piece in pieces]
    return _Pool(function, pieces, ctx, threads, at_once).run()


def run_spread(
    function: Callable[[Piece, Context], Answer],
    pieces: Sequence[Piece],
    ctx: Context,
    runtime: Runtime,
    folder: Path,
) -> list[Answer]:
    """Call `function(piece, ctx)` for every piece, dealt out to the workers of the run in turns.

    Args:
        function: As for :func:`run_all`.
        pieces: The same on every worker, but for the folder that they write to.
        ctx: Surroundings.
        runtime: Threads and processes of a run with one worker, which does it all by :func:`run_all`.
        folder: Where the pieces write files, by names of their own; the first worker gets those of all.

    Returns:
        All answers, on every worker.
    """
    from graftgan.world import World, belonging, collected, is_first, world

    here = world()
    if here.size == 1:
        return run_all(function, pieces, ctx, runtime.threads, processes(runtime))
    with belonging(World()):
        mine = run_all(function, pieces[here.rank :: here.size], ctx, runtime.threads, 1)
    written = {} if is_first() else _contents(folder)
    answers: list[Any] = [None] * len(pieces)
    for rank, (done, files) in enumerate(collected((mine, written))):
        answers[rank :: here.size] = done
        for name, content in files.items() if is_first() else ():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return answers


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


@dataclass(frozen=True)
class _Worker:
    """A process, and the line on which it is given pieces; it ends when the line is closed."""

    process: BaseProcess
    line: Connection


class _Pool:
    def __init__(
        self,
        function: Callable[[Any, Context], Any],
        pieces: Sequence[Any],
        ctx: Context,
        threads: int,
        at_once: int,
    ) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.ctx, self.at_once = ctx, at_once
        self.messages: Any = spawn.Queue()
        around = Surroundings(ctx.state, ctx.cache, ctx.resume, threads)
        self.make: Callable[[Connection], BaseProcess] = lambda line: spawn.Process(
            target=_child, args=(function, line, around, self.messages)
        )
        self.waiting = list(enumerate(pieces))
        self.running: dict[int, _Worker] = {}
        self.answers: dict[int, Any] = {}
        self.tasks: dict[tuple[int, int], Task] = {}

    def run(self) -> list[Any]:
        try:
            while self.waiting or self.running:
                while self.waiting and len(self.running) < self.at_once:
                    self._start()
                self._receive()
        except BaseException:
            self._stop()
            raise
        return [self.answers[index] for index in sorted(self.answers)]

    def _start(self) -> None:
        there, here = multiprocessing.Pipe(duplex=False)
        worker = _Worker(self.make(there), here)
        # A signal between the two would leave a child that nobody stops.
        with self.ctx.stop.deferred() as stop:
            worker.process.start()
            there.close()
            self._give(worker)
        if stop.requested:
            raise Interrupted("stopped by a signal", "run the same command to go on")

    def _give(self, worker: _Worker) -> None:
        index, piece = self.waiting.pop(0)
        self.running[index] = worker
        # Who died cannot read; that is noticed in `_check_alive`.
        with contextlib.suppress(BrokenPipeError):
            worker.line.send((index, piece))

    def _receive(self) -> None:
        try:
            message = self.messages.get(timeout=POLL_S)
        except queue.Empty:
            self._check_alive()
            return
        getattr(self, f"_on_{message[0]}")(*message[1:])

    def _check_alive(self) -> None:
        for index, worker in self.running.items():
            if not worker.process.is_alive() and self.messages.empty():
                code = worker.process.exitcode
                raise GraftganError(
                    f"worker {index} died with exit code {code}", "there may be too little memory"
                )

    def _on_task(self, key: tuple[int, int], name: str, total: int, done: int) -> None:
        self.tasks[key] = self.ctx.progress.task(name, total, done)

    def _on_advance(self, key: tuple[int, int], images: int, scores: dict[str, float]) -> None:
        self.tasks[key].advance(images, scores)

    def _on_close(self, key: tuple[int, int]) -> None:
        self.tasks.pop(key).close()

    def _on_metrics(self, values: dict[str, float], images_seen: int) -> None:
        self.ctx.tracker.log_metrics(values, images_seen)

    def _on_log(self, level: int, text: str) -> None:
        self.ctx.log.log(level, "%s", text)

    def _on_done(self, index: int, answer: Any) -> None:
        self.answers[index] = answer
        worker = self.running.pop(index)
        if self.waiting:
            self._give(worker)
        else:
            worker.line.close()
            worker.process.join()

    def _on_failed(self, index: int, error: Ending) -> None:
        worker = self.running.pop(index)
        worker.line.close()
        worker.process.join()
        raise error

    def _stop(self) -> None:
        for worker in self.running.values():
            worker.line.close()
            worker.process.terminate()
        processes = [worker.process for worker in self.running.values()]
        deadline = time.monotonic() + SAVE_WITHIN_S
        while time.monotonic() < deadline and any(process.is_alive() for process in processes):
            # A child cannot end before all it said was read.
            with contextlib.suppress(queue.Empty):
                message = self.messages.get(timeout=POLL_S)
                if message[0] == "log":
                    self._on_log(*message[1:])
        for process in processes:
            process.kill()
            process.join()


def _die_with_parent() -> None:
    """See to it that this process does not outlive its parent.

    A killed parent has lost its locks: the next start would find a stranger at work on its states.
    """
    parent = multiprocessing.parent_process()

    def wait() -> None:
        assert parent is not None
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    if parent is not None:
        threading.Thread(target=wait, name="parent", daemon=True).start()


def _child(
    function: Callable[[Any, Context], Any], line: Connection, around: Surroundings, messages: Any
) -> None:
    _die_with_parent()
    stop = StopSignal()
    stop.install()
    # The line is closed when there is no more to do; a signal in between is the parent's to report.
    with contextlib.suppress(EOFError, Interrupted, KeyboardInterrupt):
        _prepare_child(around, messages)
        while True:
            index, piece = line.recv()
            messages.put(_answer(index, function, piece, _child_context(index, around, messages, stop)))


def _prepare_child(around: Surroundings, messages: Any) -> None:
    _set_threads(around.threads)
    log = logging.getLogger("graftgan")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(RelayHandler(messages))


def _child_context(index: int, around: Surroundings, messages: Any, stop: StopSignal) -> Context:
    log, progress = logging.getLogger("graftgan"), RelayProgress(messages, index)
    ctx = Context(around.state, around.cache, log, progress, RelayTracker(messages), stop=stop)
    return replace(ctx, resume=around.resume)


def _answer(
    index: int, function: Callable[[Any, Context], Any], piece: Any, ctx: Context
) -> tuple[str, int, Any]:
    try:
        return "done", index, function(piece, ctx)
    except Ending as error:
        return "failed", index, error
    except KeyboardInterrupt:
        return "failed", index, Interrupted("stopped by SIGINT")
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        return "failed", index, GraftganError(f"unexpected {type(error).__name__}: {error}\n{text}")
