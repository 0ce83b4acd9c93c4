"""One class per kind of failure, each with the exit code every runner reads and the remedy a person needs.

Exit codes: 0 done, 2 bad configuration, 3 bad data, 4 missing or changed input, 5 untrusted or unreadable
checkpoint, 75 try again, 143 interrupted after a saved state.
"""

from __future__ import annotations

from graftgan.redaction import blotted


class Ending(BaseException):
    """What ends a run in a way that was foreseen: an expected failure, or a signal.

    Users, passwords and queries of addresses are left out of both texts, whoever shows, sends or keeps them.

    Args:
        message: What is wrong, naming the file or the configuration key.
        remedy: What to do about it, as an imperative sentence.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message = blotted(message)
        self.remedy = blotted(remedy)
        super().__init__(self.message)

    def __reduce__(self) -> tuple[type[Ending], tuple[str, str]]:
        return type(self), (self.message, self.remedy)

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.remedy}" if self.remedy else self.message


class GraftganError(Ending, Exception):
    """Base of every expected failure."""


class ConfigError(GraftganError):
    """A key, a value or a combination of values in the configuration is wrong (exit 2)."""

    exit_code = 2


class ProtocolMismatch(ConfigError):
    """Two scores or feature sets were made by different measuring protocols (exit 2)."""


class DataError(GraftganError):
    """The image set is bad: unreadable, too small, failing its expectations (exit 3)."""

    exit_code = 3


class MissingInput(GraftganError):
    """An input of a stage is absent, or is not what was recorded (exit 4)."""

    exit_code = 4


class CheckpointError(GraftganError):
    """A checkpoint is unreadable, untrusted or does not hold what its entry says (exit 5)."""

    exit_code = 5


class TryAgain(GraftganError):
    """A passing condition, such as a full disk; the same call may succeed later (exit 75)."""

    exit_code = 75


class Interrupted(Ending):
    """A signal stopped the stage after its state was saved (exit 143).

    It may come anywhere, so it is no `Exception`: what catches every failure of a file lets it through.
    """

    exit_code = 143
