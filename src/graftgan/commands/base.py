"""What groups of commands share."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import click

SET_HELP = "Override one key; repeatable."
DRY_RUN_HELP = "Tell the plan and check what can be known before; write nothing."
# Letters of a sentence that click leaves as it is.
WHOLE = 10_000


class Later(NamedTuple):
    """A command that is imported when it is called, so that the others start without it.

    Attributes:
        name: What is typed.
        place: `module:object` in `graftgan.commands`.
        summary: The first sentence of its help, for the list of commands.
    """

    name: str
    place: str
    summary: str

    def load(self) -> click.Command:
        """Import the command."""
        module, attribute = self.place.split(":")
        command = getattr(importlib.import_module(f"graftgan.commands.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command


class Commands(click.Group):
    """A group whose list of commands shows each one's first sentence in full.

    Args:
        later: Commands that are imported when they are called.
        more: As for `click.Group`.
    """

    def __init__(self, *, later: Iterable[Later] = (), **more: Any) -> None:
        super().__init__(**more)
        self._later = {command.name: command for command in later}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which help shows them."""
        return sorted([*super().list_commands(ctx), *self._later])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, imported now if it is one for later."""
        later = self._later.get(cmd_name)
        return later.load() if later else super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list; click itself would cut the lines of a narrow terminal."""
        rows = [(name, self._summary(name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _summary(self, name: str) -> str:
        later = self._later.get(name)
        return later.summary if later else self.commands[name].get_short_help_str(WHOLE)
