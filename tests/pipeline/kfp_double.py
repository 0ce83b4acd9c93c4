"""A test double of the Kubeflow Pipelines API: it keeps what it is sent and executes nothing.

It answers the calls that `pipelines.submit` makes through kfp's client, and refuses fields that the client's
own models (kfp-server-api) do not have.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import kfp_server_api as api

BASE = "/apis/v2beta1"
TASKS = ("prepare", "rank")


@dataclass
class State:
    """What the double was sent, and how its runs go.

    Attributes:
        states: State of every run at each look, the last one stays.
        refusal: Status of every answer but that of the health check; 0 answers properly.
    """

    pipelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: list[dict[str, Any]] = field(default_factory=list)
    experiments: list[dict[str, Any]] = field(default_factory=list)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    recurring: dict[str, dict[str, Any]] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)
    states: tuple[str, ...] = ("PENDING", "RUNNING", "SUCCEEDED")
    refusal: int = 0
    looks: int = 0


def unknown_fields(model: Any, body: dict[str, Any]) -> set[str]:
    """Return the keys of a request that the API's model does not have."""
    return set(body) - set(model.attribute_map.values())


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    state: State

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def answer(self, body: dict[str, Any], status: int = 200) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def handle_call(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address = urlparse(self.path)
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        path = address.path.removeprefix(BASE)
        if self.state.refusal and path != "/healthz":
            return self.answer({"error": "no"}, self.state.refusal)
        for pattern, name in ROUTES:
            if (found := re.fullmatch(pattern, f"{self.command} {path}")) is not None:
                return getattr(self, name)(content, query, *found.groups())
        return self.answer({"error": f"no such call: {self.command} {path}"}, 404)

    do_GET = do_POST = do_DELETE = handle_call  # noqa: N815

    def healthz(self, content: bytes, query: dict[str, str]) -> None:
        self.answer({"multi_user": False})

    def list_pipelines(self, content: bytes, query: dict[str, str]) -> None:
        wanted = json.loads(query["filter"])["predicates"][0]["stringValue"]
        found = [p for p in self.state.pipelines.values() if p["display_name"] == wanted]
        self.answer({"pipelines": found} if found else {})

    def upload(self, content: bytes, query: dict[str, str]) -> None:
        pipeline = {"pipeline_id": f"p{len(self.state.pipelines)}", "display_name": query["name"]}
        self.state.pipelines[pipeline["pipeline_id"]] = pipeline
        self.add_version(content, pipeline["pipeline_id"], query["name"])
        self.answer(pipeline)

    def upload_version(self, content: bytes, query: dict[str, str]) -> None:
        self.answer(self.add_version(content, query["pipelineid"], query["name"]))

    def add_version(self, content: bytes, pipeline: str, name: str) -> dict[str, Any]:
        self.state.uploads.append(content.decode())
        version = {
            "pipeline_id": pipeline,
            "pipeline_version_id": f"v{len(self.state.versions)}",
            "display_name": name,
        }
        self.state.versions.append(version)
        return version

    def list_versions(self, content: bytes, query: dict[str, str], pipeline: str) -> None:
        start = int(query.get("page_token") or 0)
        found = [v for v in self.state.versions if v["pipeline_id"] == pipeline]
        following = {"next_page_token": str(start + 2)} if len(found) > start + 2 else {}
        self.answer({"pipeline_versions": found[start : start + 2], **following})

    def list_experiments(self, content: bytes, query: dict[str, str]) -> None:
        wanted = json.loads(query["filter"])["predicates"][0]["stringValue"]
        self.answer({"experiments": [e for e in self.state.experiments if e["display_name"] == wanted]})

    def create_experiment(self, content: bytes, query: dict[str, str]) -> None:
        made = json.loads(content) | {"experiment_id": f"e{len(self.state.experiments)}"}
        self.state.experiments.append(made)
        self.answer(made)

    def create_run(self, content: bytes, query: dict[str, str]) -> None:
        body = json.loads(content)
        if unknown := unknown_fields(api.V2beta1Run, body):
            return self.answer({"error": f"unknown {unknown}"}, 400)
        version = body["pipeline_version_reference"]["pipeline_version_id"]
        if version not in {v["pipeline_version_id"] for v in self.state.versions}:
            return self.answer({"error": f"no version {version}"}, 404)
        made = body | {"run_id": f"r{len(self.state.runs)}"}
        self.state.runs[made["run_id"]] = made
        return self.answer(made)

    def get_run(self, content: bytes, query: dict[str, str], run: str) -> None:
        look = min(self.state.looks, len(self.state.states) - 1)
        self.state.looks += 1
        state = self.state.states[look]
        details = [
            {"task_id": name, "display_name": name, "state": state if number <= look else "PENDING"}
            for number, name in enumerate(TASKS)
        ]
        error = {"error": {"code": 9, "message": "task rank"}} if state == "FAILED" else {}
        answer = self.state.runs[run] | {"state": state, "run_details": {"task_details": details}} | error
        self.answer(answer)

    def create_recurring(self, content: bytes, query: dict[str, str]) -> None:
        body = json.loads(content)
        if unknown := unknown_fields(api.V2beta1RecurringRun, body):
            return self.answer({"error": f"unknown {unknown}"}, 400)
        made = body | {"recurring_run_id": f"j{len(self.state.recurring)}"}
        self.state.recurring[made["recurring_run_id"]] = made
        return self.answer(made)

    def list_recurring(self, content: bytes, query: dict[str, str]) -> None:
        self.answer({"recurringRuns": list(self.state.recurring.values())})

    def delete_recurring(self, content: bytes, query: dict[str, str], run: str) -> None:
        del self.state.recurring[run]
        self.answer({})


ROUTES = (
    ("GET /healthz", "healthz"),
    ("GET /pipelines", "list_pipelines"),
    ("POST /pipelines/upload", "upload"),
    ("POST /pipelines/upload_version", "upload_version"),
    ("GET /pipelines/([^/]+)/versions", "list_versions"),
    ("GET /experiments", "list_experiments"),
    ("POST /experiments", "create_experiment"),
    ("POST /runs", "create_run"),
    ("GET /runs/([^/]+)", "get_run"),
    ("POST /recurringruns", "create_recurring"),
    ("GET /recurringruns", "list_recurring"),
    ("DELETE /recurringruns/([^/]+)", "delete_recurring"),
)


@contextmanager
def serving() -> Iterator[tuple[str, State]]:
    """Give the address and the state of a running double."""
    state = State()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", state
    finally:
        server.shutdown()
        server.server_close()
