"""What keeps Kubeflow's retries from repeating work that cannot succeed.

Kubeflow retries a task whatever its exit code was. A task that failed for good therefore leaves a note in the
workspace, and the next attempt of the same task reads it and ends at once with the same words and code. Codes
75 (try again) and 143 (stopped after a saved state), and processes that were killed, leave none.
"""

from __future__ import annotations

import contextlib
import json
import os
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

FINAL: tuple[type[GraftganError], ...] = (ConfigError, DataError, MissingInput, CheckpointError)
# Longer than the waits between attempts, but a person's later retry of a mended run is not refused.
VALID_S = 900.0


@dataclass(frozen=True)
class Attempts:
    """The attempts of one task of one pipeline run.

    Attributes:
        note: Where a final failure is noted; None outside a pipeline run, where nothing is tried again.
    """

    note: Path | None

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
        return cls(home() / "failures" / f"{stage}-{key}.json")

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
            noted = json.loads(self.note.read_text(encoding="utf-8"))
            fresh = time.time() - float(noted["at"]) < VALID_S
            kind = next(k for k in FINAL if k.__name__ == noted["kind"])
        except (OSError, ValueError, KeyError, TypeError, StopIteration):
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
        with contextlib.suppress(OSError, GraftganError):
            write_json(self.note, facts | {"at": time.time()})

    def forget(self) -> None:
        """Remove the note after a success."""
        if self.note is not None:
            self.note.unlink(missing_ok=True)
