"""A process beside the stages that sends their journals on while they run.

`python -m graftgan.follower` reads the tracking configuration from its standard input and works until that
closes, which also happens when the stages' process is killed. Until the server answers, it does not even
import the server's client.
"""

from __future__ import annotations

import atexit
import importlib.util
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from graftgan.config import Track
from graftgan.console import Safe, tell_unforeseen
from graftgan.errors import ConfigError, TryAgain
from graftgan.journal import journals, marker_path, pending_bytes, read_marker
from graftgan.local_store import changed, database_file, knock, unfinished_database
from graftgan.redaction import redacted

POLL_S = 1.0
RETRY_S = 5.0
MAX_RETRY_S = 60.0
STARTUP_S = 15.0
# For a follower that hangs, as on a lost network disk: one that meets a lock ends by itself. A busy machine
# takes half a minute to import the client.
LOCAL_PATIENCE_S = 40.0
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306}
_log = logging.getLogger("graftgan")


def check_uri(uri: str) -> None:
    """Refuse the addresses that MLflow itself refuses.

    Raises:
        ConfigError: If the address names a folder; MLflow 3 keeps no runs in plain files.
    """
    scheme = urlsplit(uri).scheme
    if len(scheme) <= 1 or scheme == "file":
        raise ConfigError(
            f"track.uri: {redacted('uri', uri)!r} names a folder, and MLflow keeps no runs in plain files",
            "use sqlite:///.graftgan/mlflow.db or the http(s) address of a server",
        )


def located(track: Track, environ: Mapping[str, str] = os.environ) -> Track:
    """Return `track` with the address of `MLFLOW_TRACKING_URI` where `track.uri` is left at its default."""
    given = environ.get("MLFLOW_TRACKING_URI", "")
    return track.model_copy(update={"uri": given}) if given and track.uri == Track().uri else track


def is_remote(uri: str) -> bool:
    """Tell whether a store is reached over HTTP."""
    return uri.startswith(("http://", "https://"))


def _opens(database: Path, timeout_s: float) -> bool:
    try:
        knock(database, timeout_s)
        return True
    except TryAgain as error:
        _log.debug("%s", error.message)
        return False


def reachable(uri: str, timeout_s: float) -> bool:
    """Tell within `timeout_s` whether a store can be reached.

    That is, whether the host of a server has a listener, and a SQLite file that is there can be read; local
    stores of other kinds count as reachable.
    """
    if database := database_file(uri):
        return not database.exists() or _opens(database, timeout_s)
    parts = urlsplit(uri)
    kind = parts.scheme.partition("+")[0]
    if not parts.hostname or not (is_remote(uri) or kind in DATABASE_PORTS):
        return not is_remote(uri)
    port = parts.port or DATABASE_PORTS.get(kind) or (443 if kind == "https" else 80)
    answered = threading.Event()

    def connect() -> None:
        try:
            with socket.create_connection((parts.hostname or "", port), timeout=timeout_s):
                answered.set()
        except OSError:
            pass

    # In a thread, because looking up a name heeds no time limit.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return answered.is_set()


@dataclass
class _Follower:
    process: subprocess.Popen[bytes]
    folder: Path
    track: Track
    owner: int
    started_s: float


_followers: dict[Path, _Follower] = {}


def follow(folder: Path, track: Track) -> None:
    """Start a follower of a folder of journals unless this process already has one; never raises."""
    known = _followers.get(folder.resolve())
    if known and known.process.poll() is None and known.owner == os.getpid():
        return
    if importlib.util.find_spec("mlflow") is None:
        _log.warning("runs are journalled only: mlflow is not installed; `pip install graftgan[track]`")
        return
    try:
        with (folder / "follower.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "graftgan.follower", str(folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the stage; the follower ends with its standard input.
            )
        assert process.stdin is not None
        process.stdin.write(track.model_dump_json().encode() + b"\n")
        process.stdin.flush()
    except OSError as error:
        _log.warning("runs are journalled only: %s", error)
        return
    if not _followers:
        atexit.register(drain)
    _followers[folder.resolve()] = _Follower(process, folder, track, os.getpid(), time.time())


def drain() -> bool:
    """Let the followers of this process send the rest, and end them.

    A server that is away costs at most `track.timeout_s` and a start-up of the follower, a local store that
    is locked about twice that, and one that hangs at most `LOCAL_PATIENCE_S` or `track.timeout_s`. Where
    something arrives, that time begins anew.

    Returns:
        Whether everything arrived. If not, one warning was logged.
    """
    mine = [key for key, follower in _followers.items() if follower.owner == os.getpid()]
    arrived = [_end(_followers.pop(key)) for key in mine]
    return all(arrived)


def _end(follower: _Follower) -> bool:
    process = follower.process
    assert process.stdin is not None
    try:
        process.stdin.close()
    except OSError:
        _log.debug("the follower had ended before")
    closed_s = time.time()
    while process.poll() is None and time.time() < _deadline(follower, closed_s):
        time.sleep(0.05)
    if process.poll() is None:
        process.kill()
    if process.wait() == 0:
        return True
    _log.warning(
        "MLflow at %s did not take everything; the rest waits in %s, and `graftgan sync` sends it",
        redacted("uri", follower.track.uri),
        follower.folder,
    )
    return False


def _deadline(follower: _Follower, closed_s: float) -> float:
    track = follower.track
    remote = is_remote(track.uri)
    patience = track.timeout_s + 1.0 if remote else max(LOCAL_PATIENCE_S, track.timeout_s)
    signs = [changed(marker_path(path)) for path in journals(follower.folder)]
    # The tables of a new store are made once, which takes many seconds of a busy processor.
    if database := database_file(track.uri):
        signs.append(changed(unfinished_database(database)))
    return max(closed_s, follower.started_s + STARTUP_S, *signs) + patience


def abandoned(path: Path) -> bool:
    """Tell whether the server shows a run as running whose process is gone."""
    if not read_marker(path).open:
        return False
    try:
        with FileLock(path.with_suffix(".lock"), timeout=0):
            return True
    except Timeout:
        return False


def push(folder: Path, track: Track) -> bool:
    """Send what is pending below a folder; tell whether all of it arrived."""
    if not any(pending_bytes(path) or abandoned(path) for path in journals(folder)):
        return True
    if not reachable(track.uri, track.timeout_s):
        return False
    from graftgan.sync import sync

    return sync(folder, track).complete


def main(arguments: list[str]) -> int:
    """Follow the folder named on the command line until standard input closes.

    Returns:
        0 if everything arrived, else 1.
    """
    sys.excepthook = tell_unforeseen
    handler = logging.StreamHandler()
    handler.setFormatter(Safe("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.captureWarnings(True)
    folder = Path(arguments[0])
    track = Track.model_validate_json(sys.stdin.buffer.readline())
    over = threading.Event()

    def watch() -> None:
        sys.stdin.buffer.read()
        over.set()

    threading.Thread(target=watch, daemon=True).start()
    pause_s = 0.0
    while True:
        last = over.wait(pause_s)
        sent = push(folder, track)
        if last:
            return 0 if sent else 1
        pause_s = POLL_S if sent else min(max(2 * pause_s, RETRY_S), MAX_RETRY_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
