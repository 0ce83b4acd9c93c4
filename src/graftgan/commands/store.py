"""Commands on object stores: put there and fetch, checked."""

from __future__ import annotations

from pathlib import Path

import click

from graftgan.commands.base import Commands


@click.group("store", cls=Commands)
def store_group() -> None:
    """Files in an object store: s3://bucket/key, with keys and address from the environment.

    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) and, for a store of your own, AWS_ENDPOINT_URL.
    """


@store_group.command("push")
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("address")
def store_push(path: Path, address: str) -> None:
    """Put the file or folder PATH at ADDRESS: images, a checkpoint, a report, a package.

    Each object is checked, and a folder's list of files goes last: nobody takes a part for the whole.
    """
    from graftgan.remote import push

    click.echo(f"{address}: {push(path, address)} objects")


@store_group.command("pull")
@click.argument("address")
@click.argument("path", type=click.Path(path_type=Path))
def store_pull(address: str, path: Path) -> None:
    """Fetch what is at ADDRESS, an object or a folder, to the new PATH, checked."""
    import shutil

    from graftgan.contract import atomic_path
    from graftgan.errors import ConfigError
    from graftgan.places import cache_home
    from graftgan.remote import address as read_address
    from graftgan.remote import local

    read_address(address)
    if path.exists():
        raise ConfigError(f"{path} exists", "choose another path, or remove it")
    found = local(address, cache_home())
    with atomic_path(path) as temporary:
        if found.is_dir():
            shutil.copytree(found, temporary)
        else:
            shutil.copyfile(found, temporary)
    click.echo(f"{path}: fetched from {address}")
