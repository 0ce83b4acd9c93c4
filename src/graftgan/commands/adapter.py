"""Commands for adapter files and libraries of them; parse, call."""

from __future__ import annotations

from pathlib import Path

import click

from graftgan.commands.base import Commands

PATH = click.Path(path_type=Path)


@click.group("adapter", cls=Commands)
def adapter_group() -> None:
    """Adapters: what a run added to its source, as a small file of its own."""


@adapter_group.command("show")
@click.argument("file", type=PATH)
def adapter_show(file: Path) -> None:
    """Tell what an adapter FILE holds and which base it belongs to."""
    from graftgan.checkpoints.adapters import read_adapter
    from graftgan.transfer.adapters import parts

    adapter = read_adapter(file)
    spec = adapter.spec
    click.echo(f"{file}: method {adapter.method}, {spec.get('family')} {spec.get('resolution')} px")
    click.echo(f"  base sha256 {adapter.base_sha256}")
    if adapter.origin:
        click.echo("  " + ", ".join(f"{key.replace('_', ' ')} {v}" for key, v in adapter.origin.items()))
    click.echo(
        f"  {adapter.values:,} values in {len(adapter.tensors)} tensors, {file.stat().st_size:,} bytes"
    )
    if adapter.prior is not None:
        click.echo(f"  {adapter.prior.note}")
    if adapter.after:
        click.echo(f"  builds on adapters with sha256 {', '.join(adapter.after)}")
    for part, count in sorted(parts(adapter).items()):
        click.echo(f"  {part}: {count:,} values")


@adapter_group.command("apply")
@click.argument("base", type=PATH)
@click.argument("adapter", type=PATH)
@click.option("--out", required=True, type=PATH, help="New checkpoint folder.")
@click.option(
    "--library",
    type=PATH,
    help="Where the tasks are that a compressed ADAPTER builds on; it need not be there.",
)
def adapter_apply(base: Path, adapter: Path, out: Path, library: Path | None) -> None:
    """Write the network that ADAPTER makes of the checkpoint folder BASE."""
    from graftgan.checkpoints.adapters import Library, read_adapter
    from graftgan.checkpoints.factors import resolve
    from graftgan.errors import ConfigError
    from graftgan.transfer.adapters import apply, load_base

    refuse_existing(out)
    found = read_adapter(adapter)
    if found.after and library is None:
        raise ConfigError(f"{adapter} builds on {len(found.after)} other adapters", "name their --library")
    before = Library(library).before(found, str(adapter)) if library else []
    found = resolve(found, before, str(adapter))
    write_checkpoint(apply(load_base(base, found, str(adapter)), found), out)
    click.echo(f"{out}: {found.method}, {found.values:,} values applied")


@adapter_group.command("add")
@click.argument("library", type=PATH)
@click.argument("name")
@click.argument("adapter", type=PATH)
@click.option("--base", type=PATH, help="Checkpoint folder of the base, to make a new library.")
def adapter_add(library: Path, name: str, adapter: Path, base: Path | None) -> None:
    """Add ADAPTER to the folder LIBRARY as the task NAME."""
    from graftgan.checkpoints.adapters import Library, check_base, check_name, read_adapter

    if base:
        # Before the library is made, or a second try would find it there.
        check_name(name)
        check_base(read_adapter(adapter), base, str(adapter))
    shelf = Library.create(library, base) if base else Library(library)
    shelf.add(name, adapter)
    click.echo(f"{library}: {', '.join(shelf.names())}")


@adapter_group.command("list")
@click.argument("library", type=PATH)
def adapter_list(library: Path) -> None:
    """List the tasks of a LIBRARY."""
    from graftgan.checkpoints.adapters import Library

    shelf = Library(library)
    for name in shelf.names():
        adapter = shelf.read(name)
        click.echo(f"{name:20} {adapter.method:16} {shelf.file(name).stat().st_size / 1e6:.2f} MB")


@adapter_group.command("blend")
@click.argument("library", type=PATH)
@click.argument("first")
@click.argument("second")
@click.option(
    "--share", default=0.5, show_default=True, type=click.FloatRange(0.0, 1.0), help="Share of SECOND."
)
@click.option("--out", required=True, type=PATH, help="New checkpoint folder.")
def adapter_blend(library: Path, first: str, second: str, share: float, out: Path) -> None:
    """Write the network between two tasks of a LIBRARY, whose latents come from one law."""
    from graftgan.checkpoints.adapters import Library
    from graftgan.transfer.adapters import apply, interpolate

    refuse_existing(out)
    shelf = Library(library)
    base = shelf.load_base()
    between = interpolate(base, shelf.read(first), shelf.read(second), share)
    write_checkpoint(apply(base, between), out)
    click.echo(f"{out}: {1 - share:g} {first} and {share:g} {second}")


def refuse_existing(out: Path) -> None:
    """Refuse to write where something is.

    Raises:
        ConfigError: `out` exists.
    """
    from graftgan.errors import ConfigError

    if out.exists():
        raise ConfigError(f"{out} exists", "name a new folder")


def write_checkpoint(gan: object, out: Path) -> None:
    """Write networks into the new checkpoint folder `out`, all or nothing."""
    from graftgan.checkpoints.store import save_gan
    from graftgan.contract import atomic_path
    from graftgan.gans.base import Gan

    assert isinstance(gan, Gan)
    with atomic_path(out) as temporary:
        temporary.mkdir()
        save_gan(gan, temporary)
