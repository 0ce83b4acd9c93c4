"""Commands on source checkpoints: the catalogue, and files of other projects."""

from __future__ import annotations

from pathlib import Path

import click

from graftgan.commands.base import Commands


@click.group("source", cls=Commands)
def source_group() -> None:
    """Source checkpoints: the catalogue, and files of other projects."""


@source_group.command("list")
@click.option(
    "--catalogue", type=click.Path(path_type=Path), default=Path("zoo/catalogue.yaml"), show_default=True
)
def source_list(catalogue: Path) -> None:
    """List the sources."""
    from graftgan.checkpoints.catalogue import Catalogue
    from graftgan.places import cache_home

    for source in Catalogue(catalogue, cache_home()).sources:
        kimg = f"{source.kimg:g} kimg" if source.kimg else ""
        click.echo(f"{source.name:18} {source.resolution:5} px  {kimg:10} {source.licence:24} {source.title}")


@source_group.command("verify")
@click.option(
    "--catalogue", type=click.Path(path_type=Path), default=Path("zoo/catalogue.yaml"), show_default=True
)
def source_verify(catalogue: Path) -> None:
    """Check every source's digest and load it strictly."""
    from graftgan.checkpoints.catalogue import Catalogue
    from graftgan.places import cache_home

    shelf = Catalogue(catalogue, cache_home())
    for source in shelf.sources:
        gan = shelf.load(source, cache_home())
        click.echo(f"{source.name}: whole, {gan.spec.family} {gan.spec.resolution} px")


@source_group.command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
def source_inspect(file: Path) -> None:
    """Tell what a checkpoint of any known format holds, and what of it would load.

    Known are pickles of stylegan2-ada-pytorch and stylegan3, rosinality's stylegan2-pytorch, BigGAN-PyTorch
    (a file or a folder), pytorch-pretrained-BigGAN, GAN_stability, pix2pix and CycleGAN, and our own. No code
    in the file is ever run.
    """
    from graftgan.checkpoints.convert import describe
    from graftgan.places import cache_home
    from graftgan.remote import local

    click.echo(describe(local(file, cache_home())))


@source_group.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="New folder of the source, or s3:// address.",
)
@click.option("--title", default="", help="Title in the catalogue.")
@click.option("--licence", default="unknown", show_default=True, help="Licence of the weights.")
@click.option("--domain", multiple=True, help="A word for what the images show; may be repeated.")
def source_import(file: Path, out: Path, title: str, licence: str, domain: tuple[str, ...]) -> None:
    """Write a public checkpoint as safetensors with a card, and print its catalogue entry."""
    import yaml

    from graftgan.checkpoints.convert import import_checkpoint
    from graftgan.places import cache_home
    from graftgan.remote import address, is_address, local, writing

    about = {"title": title, "licence": licence, "domain": list(domain)}
    with writing(out) as place:
        entry = import_checkpoint(local(file, cache_home()), place, about)
    if is_address(out):
        entry["path"] = str(address(out))
    click.echo(yaml.safe_dump([entry], sort_keys=False, allow_unicode=True).rstrip())


@source_group.command("export")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "kind",
    required=True,
    help="safetensors, onnx, torchscript, rosinality, stylegan2-ada-state or cyclegan.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="File to write, or s3:// address."
)
def source_export(model: Path, kind: str, out: Path) -> None:
    """Write a model, such as out/finetune/models/chosen, for use in other software."""
    from graftgan.checkpoints.convert import export_checkpoint
    from graftgan.places import cache_home
    from graftgan.remote import local, writing

    with writing(out) as place:
        notes = export_checkpoint(local(model, cache_home()), kind, place)
        size_mb = place.stat().st_size / 1e6
    click.echo("\n".join([f"{out}: {size_mb:.1f} MB", *notes]))
