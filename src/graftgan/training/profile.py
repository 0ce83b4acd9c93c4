"""Where the time of a run goes: phases by the clock over all steps, operators by torch's profiler over a few.

Code that is timed says so by :func:`phase`, which does nothing unless a :class:`Profile` is at work. Nothing
here computes or draws anything, so that a run ends with the same bytes with a profile as without.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from graftgan.contract import write_json, write_text

DATA = "data"
AUGMENTATION = "augmentation"
G_FORWARD, G_BACKWARD = "G forward", "G backward"
D_FORWARD, D_BACKWARD = "D forward", "D backward"
PATH_LENGTH, R1 = "path length", "R1"
OPTIMISER, EMA = "optimiser", "EMA"
REST = "rest of the step"
EVALUATION, SAVING = "evaluation", "saving"
IN_A_STEP = (
    DATA, AUGMENTATION, G_FORWARD, G_BACKWARD, PATH_LENGTH, D_FORWARD, D_BACKWARD, R1, OPTIMISER, EMA, REST,
)  # fmt: skip
BESIDE = (EVALUATION, SAVING)
HOST_READS = {"cpu": "aten::_local_scalar_dense", "cuda": "cudaStreamSynchronize"}
"""What stands in a trace where the host reads a value; on a GPU only where it waits for it, or for a copy."""
OPERATORS = 15


class _Now:
    profile: Profile | None = None


def phase(name: str) -> AbstractContextManager[object]:
    """Count the time of a block under a name, less that of phases inside it."""
    return nullcontext() if _Now.profile is None else _Now.profile.phase(name)


def step(number: int) -> AbstractContextManager[object]:
    """Count the time of a block as that of a training step, which may be one of those that are traced."""
    return nullcontext() if _Now.profile is None else _Now.profile.step(number)


@contextmanager
def profiling(wanted: Profile | None) -> Iterator[None]:
    """Let a profile, if there is one, watch what the block does; it is written at the end, failed or not."""
    if wanted is None:
        yield
        return
    before, _Now.profile = _Now.profile, wanted
    try:
        yield
    finally:
        _Now.profile = before
        wanted.write()


class Profile:
    """The times of one run.

    Three steps are traced: the second one that has the lazy terms, R1 and path length, and its neighbours. By
    then the libraries have chosen their kernels. A run too short for it is traced from its first step.

    Args:
        name: Name of the run, and of the files.
        folder: Where they are written.
        device: Where the networks compute; its work is waited for at every change of phase.
        interval: Steps between those that have all lazy terms.
        steps: Steps of the whole run.
        facts: What to tell beside the times.

    Attributes:
        seconds: Time by phase.
        steps_done: Steps that were timed.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        device: torch.device,
        interval: int,
        steps: int,
        facts: dict[str, str] | None = None,
    ) -> None:
        self.name, self.folder, self.device = name, folder, device
        self.interval, self.steps, self.facts = interval, steps, dict(facts or {})
        self.seconds: dict[str, float] = {}
        self.steps_done = 0
        self._open: list[str] = []
        self._since = 0.0
        self._window: range | None = None
        self._tracer: Any = None
        self._traced = 0
        self._operators: list[tuple[str, int, float]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """See :func:`phase`."""
        self._account()
        self._open.append(name)
        try:
            with record_function(name):
                yield
        finally:
            self._account()
            self._open.pop()

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """See :func:`step`."""
        if self._window is None:
            self._window = self._chosen(number)
        if number in self._window and self._tracer is None:
            self._start_trace()
        with self.phase(REST):
            yield
        self.steps_done += 1
        if self._tracer is not None:
            self._traced += 1
            if number + 1 not in self._window:
                self._end_trace()

    def _chosen(self, first: int) -> range:
        """Return the steps to trace of a run that begins, or goes on, with step `first`."""
        middle = (first + 1) // self.interval * self.interval + self.interval
        start = middle - 1 if middle + 1 < self.steps else first
        return range(start, start + 3)

    def _account(self) -> None:
        """Give the time since the last change to the innermost phase."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now

    def _start_trace(self) -> None:
        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._tracer = profile(activities=activities)
        self._tracer.start()

    def _end_trace(self) -> None:
        tracer, self._tracer = self._tracer, None
        tracer.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        tracer.export_chrome_trace(str(self.trace))
        on_gpu = self.device.type == "cuda"
        for event in tracer.key_averages():
            own_us = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            # A kernel's row repeats the time that the operator's row has for it.
            if event.key not in self.seconds and event.device_type.name == "CPU":
                self._operators.append((event.key, event.count, own_us / 1e6))

    @property
    def trace(self) -> Path:
        """The file of the trace, in Chrome's format; Perfetto and chrome://tracing show it."""
        return self.folder / f"{self.name}.trace.json"

    @property
    def data_share(self) -> float:
        """Share of the steps' time that went into getting images; 0 without steps."""
        whole = sum(self.seconds.get(name, 0.0) for name in IN_A_STEP)
        return self.seconds.get(DATA, 0.0) / whole if whole else 0.0

    def record(self) -> dict[str, Any]:
        """Return everything measured, as plain values."""
        in_steps = sum(self.seconds.get(name, 0.0) for name in IN_A_STEP)
        whole = sum(self.seconds.values())
        phases = [
            {
                "phase": name,
                "seconds": seconds,
                "share_of_step": seconds / in_steps if name in IN_A_STEP and in_steps else None,
                "share_of_run": seconds / whole if whole else 0.0,
            }
            for name in (*IN_A_STEP, *BESIDE)
            if (seconds := self.seconds.get(name, 0.0))
        ]
        operators = sorted(self._operators, key=lambda row: -row[2])[:OPERATORS]
        read = HOST_READS[self.device.type]
        reads = sum(count for name, count, _ in self._operators if name == read)
        return {
            "run": self.name,
            **self.facts,
            "device": str(self.device),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "steps": self.steps_done,
            "data_share": self.data_share,
            "phases": phases,
            "traced_steps": self._traced,
            "host_reads_a_step": reads / self._traced if self._traced else None,
            "operators": [
                {"operator": name, "calls": count, "own_s": seconds} for name, count, seconds in operators
            ],
        }

    def write(self) -> None:
        """Write `NAME.json` and `NAME.md`; a trace that the run did not get through is cut short."""
        if self._tracer is not None:
            self._end_trace()
        self.folder.mkdir(parents=True, exist_ok=True)
        record = self.record()
        write_json(self.folder / f"{self.name}.json", record)
        write_text(self.folder / f"{self.name}.md", page(record))


def page(record: dict[str, Any]) -> str:
    """Return a profile as Markdown."""
    told = (
        "device", "gpu", "torch", "threads", "isa", "precision", "memory_format", "adam", "images", "compile",
        "cuda_graphs",
    )  # fmt: skip
    facts = ", ".join(f"{key} {record[key]}" for key in told if key in record)
    steps = max(record["steps"], 1)
    lines = [
        f"# {record['run']}: {record['steps']} steps", "", facts + ".", "",
        "| phase | seconds | ms a step | share of a step | share of the run |",
        "| --- | --: | --: | --: | --: |",
    ]  # fmt: skip
    for row in record["phases"]:
        inside = row["share_of_step"] is not None
        of_step = f"{1000 * row['seconds'] / steps:.2f} | {row['share_of_step']:.1%}" if inside else " | "
        lines.append(f"| {row['phase']} | {row['seconds']:.2f} | {of_step} | {row['share_of_run']:.1%} |")
    if record["traced_steps"]:
        waits = "waited for the GPU" if record["device"].startswith("cuda") else "read a value of a tensor"
        lines += [
            "",
            f"In {record['traced_steps']} traced steps the host {waits} "
            f"{record['host_reads_a_step']:.1f} times a step. Operators by their own time:",
            "", "| operator | calls | ms |", "| --- | --: | --: |",
        ]  # fmt: skip
        lines += [
            f"| {row['operator']} | {row['calls']} | {1000 * row['own_s']:.1f} |"
            for row in record["operators"]
        ]
    return "\n".join([*lines, ""])
