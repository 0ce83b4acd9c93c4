"""What keeps Kubeflow's retries from repeating work that cannot succeed.

Kubeflow retries a task whatever its exit code was. A task that failed for good therefore leaves a note in the
workspace, or in the object store where that ends with its pod, and the next attempt of the same task reads it
and ends at once with the same words and code. Codes 75 (try again) and 143 (stopped after a saved state), and
processes that were killed, leave none.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from graftgan.contract import canonical_json, digest_text, write_json
from graftgan.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    GraftganError,
    MissingInput,
)
from graftgan.places import home
from graftgan.remote import fetch_file, is_address, join, writing

NOTES = "GRAFTGAN_FAILURES"
"""Variable that names the folder for notes, a path or an s3:// address, in the place of the workspace."""
FINAL: tuple[type[GraftganError], ...] = (ConfigError, DataError, MissingInput, CheckpointError)
# Longer than the waits between attempts, but a person's later retry of a mended run is not refused.
VALID_S = 900.0


@dataclass(frozen=True)
class Attempts:
    """The attempts of one task of one pipeline run.

    Attributes:
        note: Path or address where a final failure is noted; None outside a pipeline run, where nothing is
            tried again.
    """

    note: Path | str | None

    @classmethod
    def of(cls, stage: str, executor_input: str, environ: Mapping[str, str] = os.environ) -> Attempts:
        """Return the attempts of a task, told by the run, the stage and its inputs."""
        if not (run := environ.get("KFP_RUN_ID", "")):
            return cls(None)
        try:
            message = json.loads(executor_input)
        except ValueError:
            message = None
        given = message.get("inputs", {}) if isinstance(message, dict) else executor_input
        key = digest_text(canonical_json([run, stage, given]))[:32]
        return cls(join(environ.get(NOTES) or home() / "failures", f"{stage}-{key}.json"))

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Do the work of an attempt in the block: not after a final failure, and one is noted.

        Raises:
            GraftganError: As an earlier attempt, or as the block raises.
        """
        self.check()
        try:
            yield
        except GraftganError as error:
            self.failed(error)
            raise
        self.forget()

    def check(self) -> None:
        """Fail again if an earlier attempt failed for good.

        Raises:
            GraftganError: Of the kind that the earlier attempt raised.
        """
        if self.note is None:
            return
        try:
            noted = json.loads(_text_of(self.note))
            fresh = time.time() - float(noted["at"]) < VALID_S
            kind = next(k for k in FINAL if k.__name__ == noted["kind"])
        except (OSError, ValueError, KeyError, TypeError, StopIteration, GraftganError):
            return
        if fresh:
            raise kind(
                f"not tried again, for an earlier attempt failed for good: {noted['message']}",
                f"{noted['remedy']} (to try within {VALID_S / 60:.0f} minutes, delete {self.note})",
            )

    def failed(self, error: GraftganError) -> None:
        """Note a failure that no further attempt can mend."""
        if self.note is None or not isinstance(error, FINAL):
            return
        kind = next(k for k in FINAL if isinstance(error, k))
        facts = {"kind": kind.__name__, "message": error.message, "remedy": error.remedy}
        # Without a note the next attempt repeats the work, which is no reason to hide why this one failed.
        with contextlib.suppress(OSError, GraftganError), writing(self.note) as place:
            write_json(place, facts | {"at": time.time()})

    def forget(self) -> None:
        """Remove the note of an earlier attempt after a success; in a store it has lost its force by then."""
        if isinstance(self.note, Path):
            self.note.unlink(missing_ok=True)


def _text_of(note: Path | str) -> str:
    if not is_address(note):
        return Path(note).read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "note.json"
        fetch_file(str(note), copy)
        return copy.read_text(encoding="utf-8")
