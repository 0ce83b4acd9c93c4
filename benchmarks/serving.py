"""Load on a served model: latencies, answers to malformed requests, and memory, against a real server.

Usage: python benchmarks/serving.py [MODEL] [--requests 1000] [--clients 2] [--quick]

MODEL is a package folder of a generator or of a bank, by default out/register/package. Every tenth request is
malformed; each must get the status that it deserves (4xx), and the server must answer the next one. Memory is
that of the server and its children, read forty times during the load: a tenth of the way and at the end, the
means of the second and of the last quarter, and the slope of a line through the second half. Writes
`benchmarks/results/serving.json` and `.md`.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from graftgan.bank.package import is_bank
from graftgan.contract import read_json, write_json, write_text

RESULTS = Path(__file__).resolve().parent / "results"
START_S = 600.0
REQUEST_S = 300.0
MALFORMED_EVERY = 10
READINGS = 40
# A load of a thousand, of which no object stays behind, took 2 %: large bodies leave gaps in the heap until
# it has the gaps that it needs.
MAX_GROWTH = 1.04
JSON = "application/json"


@dataclass(frozen=True)
class Request:
    """One request and the status that it deserves."""

    name: str
    body: bytes
    status: int = 400
    content_type: str = JSON
    method: str = "POST"
    path: str = "/invocations"


def records(*rows: dict[str, Any]) -> bytes:
    """Return the body that asks for these rows."""
    return json.dumps({"dataframe_records": rows}).encode()


MALFORMED = (
    Request("no JSON", b'{"dataframe_records": [{"seed": '),
    Request("no UTF-8", b'\xff\xfe{"dataframe_records": [{"seed": 1}]}'),
    Request("no known key", b'{"rows": [1]}'),
    Request("a list", b"[1, 2, 3]"),
    Request("no seed", records({"truncation_psi": 0.5})),
    Request("a negative seed", records({"seed": 1}, {"seed": -1})),
    Request("a seed beyond 63 bits", records({"seed": 2**70})),
    Request("a seed of text", records({"seed": "__import__('os')"})),
    Request("an empty seed", records({"seed": None})),
    Request("a nested seed", records({"seed": [1]})),
    Request("a truncation beyond 1", records({"seed": 1, "truncation_psi": 1.5})),
    Request("a truncation of text", records({"seed": 1, "truncation_psi": "much"})),
    Request("an infinite truncation", b'{"dataframe_records": [{"seed": 1, "truncation_psi": Infinity}]}'),
    Request("too many rows", records(*({"seed": n} for n in range(65)))),
    Request("far too many rows", records(*({"seed": n} for n in range(50_000)))),
    Request("another content type", records({"seed": 1}), 415, "text/plain"),
    Request("another character set", records({"seed": 1}), 415, f"{JSON}; charset=latin-1"),
    Request("another method", b"", 405, method="GET"),
    Request("another path", records({"seed": 1}), 404, path="/../../etc/passwd"),
)


# MLflow's own reader fails at these with a 500; the guard of `graftgan serve` answers them.
GUARDED = (
    Request("nested too deeply", b"[" * 200_000),
    Request("a number of 5,000 digits", b'{"dataframe_records": [{"seed": ' + b"9" * 5000 + b"}]}"),
    Request("no content type", records({"seed": 1}), 415, ""),
    Request("Parquet", b"PAR1 broken PAR1", 415, "application/vnd.apache.parquet"),
    Request("a body beyond 1 MiB", b'{"dataframe_records": [' + b" " * (1 << 20) + b"]}", 413),
)


@dataclass(frozen=True)
class Kind:
    """What models of a kind are asked for.

    Attributes:
        good: Gives the good request of a number.
        malformed: The malformed ones.
    """

    good: Callable[[int], Request]
    malformed: tuple[Request, ...]

    def plan(self, requests: int) -> list[Request]:
        """Return so many requests, every tenth malformed."""
        return [
            self.malformed[n // MALFORMED_EVERY % len(self.malformed)]
            if n % MALFORMED_EVERY == MALFORMED_EVERY - 1
            else self.good(n)
            for n in range(requests)
        ]


def good(number: int) -> Request:
    """Return the number-th good request to a generator, of one to four rows."""
    rows = ({"seed": number * 7 + row, "truncation_psi": 0.5 + row / 8} for row in range(1 + number % 4))
    return Request("good", records(*rows), 200)


GENERATOR = Kind(good, MALFORMED + GUARDED)


def flat(width: int, height: int) -> bytes:
    """Return a PNG of one bit a pixel, all alike: ten thousand pixels a byte."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG", optimize=True)
    return file.getvalue()


def bank(tasks: Sequence[str]) -> Kind:
    """Return what a bank of these tasks is asked for."""
    picture = flat(20, 16)

    def row(image: bytes | str = picture, task: Any = tasks[0]) -> dict[str, Any]:
        sent = base64.b64encode(image).decode() if isinstance(image, bytes) else image
        return {"task": task, "image": sent}

    def some(number: int) -> Request:
        rows = (row(flat(16 + number % 9, 20), tasks[(number + n) % len(tasks)]) for n in range(1, 3))
        return Request("good", records(*rows), 200)

    malformed = (
        Request("no JSON", b'{"dataframe_records": [{"task": '),
        Request("no UTF-8", b'\xff\xfe{"dataframe_records": []}'),
        Request("no known key", b'{"rows": [1]}'),
        Request("a list", b"[1, 2, 3]"),
        Request("no image", records({"task": tasks[0]})),
        Request("no task", records({"image": row()["image"]})),
        Request("another task", records(row(), row(task="no such task"))),
        Request("a task of a number", records(row(task=7))),
        Request("an empty task", records(row(task=None))),
        Request("a nested task", records(row(task=[tasks[0]]))),
        Request("a path for a task", records(row(task="../../etc/passwd"))),
        Request("an image of text", records(row("not base64: ../../etc/passwd"))),
        Request("an image of a number", records({"task": tasks[0], "image": 7})),
        Request("an empty image", records(row(b""))),
        Request("no picture", records(row(b"no picture at all"))),
        Request("a picture cut short", records(row(picture[:-20]))),
        Request("a pickle", records(row(b"\x80\x04cos\nsystem\n."))),
        Request("64 bombs", records(*[row(flat(10_000, 10_000))] * 64)),
        Request("too many rows", records(*[row()] * 65)),
        Request("another content type", records(row()), 415, "text/plain"),
        Request("another character set", records(row()), 415, f"{JSON}; charset=latin-1"),
        Request("another method", b"", 405, method="GET"),
        Request("another path", records(row()), 404, path="/../../etc/passwd"),
    )
    return Kind(some, malformed + GUARDED)


def kind_of(package: Path) -> Kind:
    """Return what a package folder is asked for."""
    facts = read_json(package / "model.json")
    return bank(tuple(facts["tasks"])) if is_bank(facts) else GENERATOR


@dataclass
class Server:
    """A served model."""

    port: int
    process: subprocess.Popen[bytes]

    def ask(self, request: Request) -> tuple[int, bytes]:
        """Send a request on a connection of its own; return status and body."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_S)
        try:
            headers = {"Content-Type": request.content_type}
            link.request(request.method, request.path, request.body, headers)
            answer = link.getresponse()
            return answer.status, answer.read()
        finally:
            link.close()

    def memory_mb(self) -> float:
        """Return the resident memory of the server and its children."""
        root = psutil.Process(self.process.pid)
        return sum(float(each.memory_info().rss) for each in [root, *root.children(recursive=True)]) / 1e6


@contextmanager
def serving(model: Path, log: Path, guarded: bool = True, **environment: str) -> Iterator[Server]:
    """Serve a model folder on a free port, with `graftgan serve` or, not guarded, `mlflow models serve`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    command = [sys.executable, "-m", "graftgan", "serve", str(model), "--port", str(port)]
    if not guarded:
        command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "-p", str(port)]
        command += ["--host", "127.0.0.1", "--env-manager", "local"]
    # MLflow starts uvicorn by its name.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env=os.environ | {"PATH": path} | environment,
        )
    server = Server(port, process)
    try:
        wait(server, log)
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait(server: Server, log: Path) -> None:
    """Wait until the server is up.

    Raises:
        RuntimeError: With its log, if it ends or takes too long.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if server.ask(Request("ping", b"", method="GET", path="/ping"))[0] == 200:
                return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(log.read_text(errors="replace")[-4000:])


@dataclass
class Load:
    """What a load did.

    Attributes:
        seconds: Latency of each good request.
        wrong: Requests that got another status than they deserve, with it.
        statuses: Number of answers by status.
        memory_mb: Memory by the number of requests that were answered.
    """

    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    memory_mb: dict[int, float] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Return the numbers for people and for JSON."""
        ordered = sorted(self.seconds)
        cuts = statistics.quantiles(ordered, n=100, method="inclusive")
        memory = [value for _, value in sorted(self.memory_mb.items())]
        return {
            "good_requests": len(ordered),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "wrong": self.wrong,
            "latency_ms": {
                "median": round(1000 * cuts[49], 1),
                "p95": round(1000 * cuts[94], 1),
                "p99": round(1000 * cuts[98], 1),
                "max": round(1000 * ordered[-1], 1),
            },
            "memory_mb": [round(memory[len(memory) // 10], 1), round(memory[-1], 1)],
            "memory_course": course(self.memory_mb),
        }


def course(memory_mb: Mapping[int, float]) -> dict[str, float]:
    """Return how memory went, by the number of requests answered: means of two quarters, and a slope.

    A server grows while its pools and caches fill, so that the first quarter tells nothing of a leak.
    """
    counts = sorted(memory_mb)
    values = [memory_mb[count] for count in counts]
    quarter, half = len(values) // 4, len(values) // 2
    slope, _ = statistics.linear_regression(counts[half:], values[half:])
    return {
        "readings": len(values),
        "second_quarter_mb": round(statistics.fmean(values[quarter:half]), 1),
        "last_quarter_mb": round(statistics.fmean(values[-quarter:]), 1),
        "second_half_kb_per_request": round(1000 * slope, 2),
    }


def grew(way: Mapping[str, float]) -> bool:
    """Tell whether memory went as a leak's would: up by more than the allocator's own late steps."""
    return way["last_quarter_mb"] > MAX_GROWTH * way["second_quarter_mb"]


def load(server: Server, kind: Kind, requests: int, clients: int) -> Load:
    """Send requests from several clients at once, every tenth malformed, and read the memory meanwhile."""
    found, lock = Load(), threading.Lock()
    plan, every = kind.plan(requests), max(1, requests // READINGS)

    def work(mine: Sequence[Request]) -> None:
        for request in mine:
            started = time.perf_counter()
            status, body = server.ask(request)
            taken = time.perf_counter() - started
            with lock:
                found.statuses[status] += 1
                if status != request.status:
                    found.wrong.append(f"{request.name}: {status} {body[:200]!r}")
                elif status == 200:
                    found.seconds.append(taken)
                if (answered := found.statuses.total()) % every == 0:
                    found.memory_mb[answered] = server.memory_mb()

    threads = [threading.Thread(target=work, args=(plan[n::clients],)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def table(facts: Mapping[str, Any]) -> str:
    """Return what a load did as Markdown."""
    latency = ", ".join(f"{name} {value:g} ms" for name, value in facts["latency_ms"].items())
    statuses = ", ".join(f"{count} x {status}" for status, count in facts["statuses"].items())
    first, last = facts["memory_mb"]
    way = facts["memory_course"]
    return "\n".join([
        "| what | measured |", "| --- | --- |",
        f"| latency of {facts['good_requests']:,} good requests | {latency} |",
        f"| answers | {statuses}; {len(facts['wrong'])} of them with another status than deserved |",
        f"| memory of the server, after a tenth and at the end | {first:g} MB, {last:g} MB |",
        f"| mean of {way['readings']} readings in the second and the last quarter"
        f" | {way['second_quarter_mb']:g} MB, {way['last_quarter_mb']:g} MB |",
        f"| slope over the second half | {way['second_half_kb_per_request']:g} kB a request |", "",
    ])  # fmt: skip


def main() -> None:
    """Serve a package, print what the load did and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?", default=Path("out/register/package"))
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="40 requests; prints only")
    given = parser.parse_args()
    given.requests = 40 if given.quick else given.requests
    with tempfile.TemporaryDirectory() as scratch, serving(given.model, Path(scratch) / "log") as server:
        facts = load(server, kind_of(given.model), given.requests, given.clients).facts()
    print(json.dumps(facts, indent=2))
    if not given.quick:
        write_json(RESULTS / "serving.json", facts)
        write_text(RESULTS / "serving.md", table(facts))
    if facts["wrong"] or (grew(facts["memory_course"]) and not given.quick):
        sys.exit(1)


if __name__ == "__main__":
    main()
