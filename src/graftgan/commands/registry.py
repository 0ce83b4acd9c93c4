"""Commands on registered models: what there is, which one is champion, and pictures of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graftgan.commands.base import SET_HELP

if TYPE_CHECKING:
    from graftgan.config import Params
    from graftgan.registry import MlflowRegistry

REASON = click.option("--reason", default="", help="Why; kept on the version.")


def _tracked(function: Any) -> Any:
    """Add the options that tell where the registry is."""
    for option in (
        click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help=SET_HELP),
        click.option(
            "--params", type=click.Path(path_type=Path), default=Path("params.yaml"), show_default=True
        ),
    ):
        function = option(function)
    return function


def parameters(params: Path, assignments: tuple[str, ...]) -> Params:
    """Return the parameters; consumers need not have a file of them."""
    from graftgan.params import load

    return load(params if params.exists() or params != Path("params.yaml") else None, assignments)


def connected(params: Path, assignments: tuple[str, ...]) -> MlflowRegistry:
    """Return the registry that `track` or MLFLOW_TRACKING_URI names.

    Raises:
        TryAgain: If it does not answer.
    """
    from graftgan.follower import located
    from graftgan.registry import MlflowRegistry
    from graftgan.tracking import Connection

    return MlflowRegistry(Connection(located(parameters(params, assignments).track)), run=str)


@click.command("versions")
@click.argument("model")
@_tracked
def versions_command(model: str, params: Path, assignments: tuple[str, ...]) -> None:
    """List the versions of a registered MODEL with aliases, package digest and reason."""
    from graftgan.versions import table

    click.echo("\n".join(table(connected(params, assignments), model)))


@click.command("promote")
@click.argument("model")
@click.argument("version")
@click.option("--alias", default="champion", show_default=True, help="Alias to move.")
@REASON
@_tracked
def promote_command(
    model: str, version: str, alias: str, reason: str, params: Path, assignments: tuple[str, ...]
) -> None:
    """Move an alias of the registered MODEL to VERSION, a number or another alias.

    The version's package is fetched and tried out first; a damaged one is not promoted.
    """
    from graftgan.versions import promote

    registry = connected(params, assignments)
    click.echo(promote(registry, model, version, alias, reason or "promoted by hand"))


@click.command("rollback")
@click.argument("model")
@REASON
@_tracked
def rollback_command(model: str, reason: str, params: Path, assignments: tuple[str, ...]) -> None:
    """Give the alias champion of the registered MODEL back to the version that bore it before."""
    from graftgan.versions import rollback

    click.echo(rollback(connected(params, assignments), model, reason or "rolled back by hand"))


@click.command("compare")
@click.argument("model")
@click.argument("first")
@click.argument("second")
@_tracked
def compare_command(model: str, first: str, second: str, params: Path, assignments: tuple[str, ...]) -> None:
    """Compare two versions of the registered MODEL, each a number or an alias: origin and scores."""
    from graftgan.versions import compare

    click.echo("\n".join(compare(connected(params, assignments), model, first, second)))


@click.command("gallery")
@click.argument("model")
@click.option("--out", type=click.Path(path_type=Path), default=Path("gallery.html"), show_default=True)
@click.option("--seeds", default="0-23", show_default=True, help="Seeds: 7, 0-63 or 1,5,9-12.")
@click.option("--psi", default="1,0.7,0.5", show_default=True, help="Truncations, one section each.")
@_tracked
def gallery_command(
    model: str, out: Path, seeds: str, psi: str, params: Path, assignments: tuple[str, ...]
) -> None:
    """Write one HTML page of pictures of MODEL: a package folder, or NAME@ALIAS or NAME/VERSION.

    The page holds all pictures, opens without a server, and shows each seed, so that every picture can be
    asked for again.
    """
    from graftgan.gallery import parse_truncations, write_gallery
    from graftgan.places import cache_home
    from graftgan.registry_answers import MODELS
    from graftgan.remote import is_address, local, writing
    from graftgan.sampling import parse_seeds

    wanted, truncations = parse_seeds(seeds), parse_truncations(psi)
    with writing(out) as place:
        if not model.startswith(MODELS) and (Path(model).is_dir() or is_address(model)):
            write_gallery(local(model, cache_home()), model, wanted, truncations, place)
        else:
            from graftgan.versions import fetched

            with fetched(connected(params, assignments), model) as (folder, title):
                write_gallery(folder, title, wanted, truncations, place)
    click.echo(f"{out}: {len(wanted)} seeds at {len(truncations)} truncations")


@click.command("serve")
@click.argument("model")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=5001, show_default=True, type=click.IntRange(1, 65535))
@_tracked
def serve_command(model: str, host: str, port: int, params: Path, assignments: tuple[str, ...]) -> None:
    """Serve MODEL over HTTP: a package folder, or models:/NAME@ALIAS.

    The same requests and answers as `mlflow models serve`, with a guard before it that answers any malformed
    request with a 4xx. There is no authentication.
    """
    from graftgan.follower import located
    from graftgan.server import serve

    serve(model, located(parameters(params, assignments).track), host, port)
