"""A server that speaks as MLflow's does and answers what a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

API = "/api/2.0/mlflow/"
FILES = "/api/2.0/mlflow-artifacts/artifacts"


@dataclass
class Stranger:
    """What the server answers.

    Attributes:
        model: The registered model.
        version: Its version, whatever is asked for.
        place: Where the server says that the version's files are.
        model_place: Where it says that those of the model m-1 are.
        listings: Files by folder, each a path and whether it is a folder.
        everywhere: Files of all other folders.
        asked: Paths that it was asked for.
        uri: Its address.
    """

    model: dict[str, Any] = field(
        default_factory=lambda: {"name": "toys", "aliases": [{"alias": "champion", "version": "1"}]}
    )
    version: dict[str, Any] = field(default_factory=lambda: {"name": "toys", "version": "1"})
    place: Any = "mlflow-artifacts:/0/models/m-1/artifacts"
    model_place: str = "models:/m-1"
    listings: dict[str, list[tuple[str, bool]]] = field(default_factory=dict)
    everywhere: list[tuple[str, bool]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    uri: str = ""

    def answer(self, path: str, query: dict[str, list[str]]) -> Any:
        """Return what is answered as JSON, bytes of a file, or None for what there is not."""
        if path == FILES:
            folder = query.get("path", [""])[0].removeprefix("0/models/m-1/artifacts").strip("/")
            files = self.listings.get(folder, self.everywhere)
            return {"files": [{"path": name, "is_dir": is_dir, "file_size": 3} for name, is_dir in files]}
        if path.startswith(FILES):
            return b"new"
        return {
            "experiments/search": {},
            "registered-models/get": {"registered_model": self.model},
            "model-versions/get": {"model_version": self.version},
            "model-versions/search": {"model_versions": [self.version]},
            "model-versions/get-download-uri": {"artifact_uri": self.place},
            "logged-models/m-1": {"model": {"info": {"model_id": "m-1", "artifact_uri": self.model_place}}},
        }.get(path.removeprefix(API))


@contextmanager
def stranger() -> Iterator[Stranger]:
    """Give a server that answers as told."""
    told = Stranger()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            told.asked.append(unquote(parts.path))
            found = told.answer(unquote(parts.path), parse_qs(parts.query))
            body = found if isinstance(found, bytes) else json.dumps(found or {}).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.uri = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
