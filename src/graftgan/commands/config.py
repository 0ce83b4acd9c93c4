"""Commands that show and explain the parameters."""

from __future__ import annotations

from pathlib import Path

import click

from graftgan.commands.base import SET_HELP, Commands


@click.group("config", cls=Commands)
def config_group() -> None:
    """Show, check and explain the parameters."""


@config_group.command("show")
@click.option("--params", type=click.Path(path_type=Path), default=Path("params.yaml"), show_default=True)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help=SET_HELP)
@click.option("--json", "as_json", is_flag=True, help="One line of canonical JSON, as pipelines take it.")
def config_show(params: Path, assignments: tuple[str, ...], as_json: bool) -> None:
    """Print the parameters with all defaults filled in and every key explained."""
    from graftgan.contract import canonical_json
    from graftgan.params import load
    from graftgan.template import commented

    resolved = load(params, assignments)
    text = canonical_json(resolved.model_dump(mode="json")) if as_json else commented(resolved)
    click.echo(text, nl=as_json)


@config_group.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of params.yaml, for editors."""
    import json

    from graftgan.config import Params

    click.echo(json.dumps(Params.model_json_schema(), indent=2))


@config_group.command("explain")
@click.argument("key")
def config_explain(key: str) -> None:
    """Tell what KEY means, takes and defaults to."""
    from graftgan.params import explain

    click.echo(explain(key))


@config_group.command("methods")
def config_methods() -> None:
    """List the transfer methods that finetune.method takes."""
    from graftgan.transfer import METHODS

    for name, method in METHODS.items():
        click.echo(f"{name:16} {method.help}")


@config_group.command("penalties")
def config_penalties() -> None:
    """List the terms that finetune.penalties takes."""
    from graftgan.transfer.penalties import PENALTIES

    for name, penalty in PENALTIES.items():
        click.echo(f"{name:12} {penalty.help}")
