"""What groups of commands share."""

from __future__ import annotations

import click

SET_HELP = "Override one key; repeatable."
DRY_RUN_HELP = "Tell the plan and check what can be known before; write nothing."


class Commands(click.Group):
    """A group whose list of commands shows each one's first sentence in full."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list; click itself would cut the lines of a narrow terminal."""
        whole = 10_000
        rows = [(name, command.get_short_help_str(whole)) for name, command in sorted(self.commands.items())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
