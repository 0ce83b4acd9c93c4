"""Serves pip's local wheel folders on the loopback address, so that an image build can use them.

Prints `KEY=VALUE` lines that are build arguments (nothing where pip has no local folders), then serves until
it is stopped.
"""

from __future__ import annotations

import functools
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path


def configured() -> dict[str, list[str]]:
    """Return pip's find-links and extra-index-url, from its files and the environment."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, list[str]] = {"find-links": [], "extra-index-url": []}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        for key, values in found.items():
            if name.endswith(key):
                values += [
                    entry for entry in value.strip("'\"").replace("\\n", " ").split() if entry not in values
                ]
    return found


def folders(entries: list[str]) -> Iterator[Path]:
    """Yield those entries that are folders of this machine."""
    for entry in entries:
        path = Path(entry.removeprefix("file://"))
        if path.is_dir():
            yield path


def serve(root: Path) -> str:
    """Serve a folder from a thread and return its address."""
    handler = functools.partial(QuietHandler, directory=str(root))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever).start()
    return f"http://127.0.0.1:{server.server_port}"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """A file server that logs nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Do nothing."""


def main() -> None:
    """Serve every local folder of pip's configuration."""
    given = configured()
    links = [f"{serve(path)}/" for path in folders(given["find-links"])]
    # A local index links to files beside its `simple` folder.
    indexes = [f"{serve(path.parent)}/{path.name}/" for path in folders(given["extra-index-url"])]
    if links:
        print(f"PIP_FIND_LINKS={' '.join(links)}")
    if indexes:
        print(f"PIP_EXTRA_INDEX_URL={' '.join(indexes)}")
    print("READY", flush=True)


if __name__ == "__main__":
    main()
