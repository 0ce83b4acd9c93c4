"""Whether the tracking store can be used, as `graftgan doctor` asks: nothing is written and nothing made."""

from __future__ import annotations

import base64
import http.client
import os
import re
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from graftgan.config import Track
from graftgan.follower import is_remote, reachable
from graftgan.local_store import database_file
from graftgan.redaction import redacted

# What MLflow's server answers; a service that speaks its language may know one of the two only.
PROBES = {"/health": rb"OK", "/version": rb"\d+\.\d+[\w.+-]*"}
MAX_ANSWER_BYTES = 64
SQLITE_MAGIC = b"SQLite format 3\0"
CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"


@dataclass(frozen=True)
class Obstacle:
    """Why a store cannot be used.

    Attributes:
        text: What was found.
        remedy: What to do about it.
    """

    text: str
    remedy: str


def find_obstacle(track: Track) -> Obstacle | None:
    """Return why runs would stay in the journal, or None if the store can be used, as far as can be seen.

    A server is asked over the network for at most `track.timeout_s` a question.

    Args:
        track: The tracking configuration; its address has passed `follower.check_uri`.
    """
    uri = redacted("uri", track.uri)
    if database := database_file(track.uri):
        return _database_obstacle(database) or _folder_obstacle(Path(track.artifacts))
    if not reachable(track.uri, track.timeout_s):
        text = f"{uri} does not answer within {track.timeout_s:g} s; runs are journalled"
        return Obstacle(text, "start the server, then `graftgan sync`")
    if is_remote(track.uri):
        return _server_obstacle(track.uri, track.timeout_s)
    return _folder_obstacle(Path(track.artifacts))


def _folder_obstacle(folder: Path) -> Obstacle | None:
    """Return why nothing can be written into a folder, which need not exist yet."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not there.is_dir():
        return Obstacle(f"{there} is no folder; runs are journalled", "remove it, or set another place")
    if not os.access(there, os.W_OK | os.X_OK):
        return Obstacle(f"{there} may not be written; runs are journalled", "change its owner or mode")
    return None


def _database_obstacle(path: Path) -> Obstacle | None:
    if not path.exists():
        return _folder_obstacle(path.parent)
    if not path.is_file() or not os.access(path, os.R_OK | os.W_OK):
        text = f"{path} is no file that may be read and written; runs are journalled"
        return Obstacle(text, "change its owner or mode, or set track.uri to another file")
    with path.open("rb") as file:
        start = file.read(len(SQLITE_MAGIC))
    if start not in (b"", SQLITE_MAGIC):
        return Obstacle(f"{path} is no SQLite database; runs are journalled", "set track.uri to another file")
    # SQLite keeps its journal beside the file.
    return _folder_obstacle(path.parent)


@dataclass
class _Answer:
    """What a server said: a status and the first bytes, or the trouble in words."""

    status: int = 0
    body: bytes = b""
    trouble: str = field(default="no answer in time")


def _server_obstacle(uri: str, timeout_s: float) -> Obstacle | None:
    answers = {}
    for path, expected in PROBES.items():
        answer = answers[path] = _ask(uri, path, timeout_s)
        if answer.status == 200 and re.fullmatch(expected, answer.body.strip()):
            return None
        if not answer.status:
            break
    said = ", ".join(
        f"{path}: {answer.status or redacted('answer', answer.trouble)}" for path, answer in answers.items()
    )
    remedy = "set track.uri to the address of an MLflow server"
    if any(answer.status in (401, 403) for answer in answers.values()):
        remedy = f"give its credentials as {CREDENTIALS}"
    elif not answers["/health"].status:
        remedy = "see whether the server is well and the address has the right scheme, then `graftgan sync`"
    text = f"{redacted('uri', uri)} does not answer as MLflow does ({said}); runs may stay in the journal"
    return Obstacle(text, remedy)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for the answer: credentials go nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        """Refuse to follow."""


def _ask(uri: str, path: str, timeout_s: float) -> _Answer:
    answer = _Answer()

    def ask() -> None:
        try:
            _fill(answer, _request(uri, path), timeout_s)
        except (OSError, http.client.HTTPException, ValueError) as error:
            answer.trouble = str(getattr(error, "reason", None) or error) or type(error).__name__

    # In a thread, because a server may take its time over every byte.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_s + 0.5)
    return _Answer(answer.status, answer.body, answer.trouble)


def _fill(answer: _Answer, request: urllib.request.Request, timeout_s: float) -> None:
    tls = ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or None)
    opener = urllib.request.build_opener(_NoRedirects, urllib.request.HTTPSHandler(context=tls))
    try:
        with opener.open(request, timeout=timeout_s) as reply:
            answer.body = reply.read(MAX_ANSWER_BYTES)
            answer.status = reply.status
    except urllib.error.HTTPError as error:
        answer.status = error.code
        error.close()


def _request(uri: str, path: str, environ: Mapping[str, str] = os.environ) -> urllib.request.Request:
    """Return the request for a path below an address, with the credentials that MLflow would send."""
    parts = urlsplit(uri)
    place = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/") + path)
    request = urllib.request.Request(place._replace(query="", fragment="").geturl())
    user = environ.get("MLFLOW_TRACKING_USERNAME") or unquote(parts.username or "")
    password = environ.get("MLFLOW_TRACKING_PASSWORD") or unquote(parts.password or "")
    if user and password:
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {basic}")
    elif token := environ.get("MLFLOW_TRACKING_TOKEN"):
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return request
