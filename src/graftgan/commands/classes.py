"""Commands for the classes of a conditional source; parse, call."""

from __future__ import annotations

import json
from pathlib import Path

import click

from graftgan.commands.base import Commands

PATH = click.Path(path_type=Path)


@click.group("classes", cls=Commands)
def classes_group() -> None:
    """Classes of a conditional source: which are collapsed, narrow or alike."""


@classes_group.command("diagnose")
@click.argument("source", type=PATH)
@click.option(
    "--samples", default=128, show_default=True, type=click.IntRange(8, 4096), help="Samples a class."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the latents.")
@click.option("--extractor", default="efflite0-128", show_default=True, help="Features that variety is in.")
@click.option(
    "--dataset", type=PATH, help="Real images to compare with: a folder such as out/prepare/dataset."
)
@click.option("--dataset-class", type=click.IntRange(0), help="The class that all of these images are of.")
@click.option("--sheets", type=PATH, help="Folder for a contact sheet of every class.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of the table.")
def diagnose_command(
    source: Path,
    samples: int,
    seed: int,
    extractor: str,
    dataset: Path | None,
    dataset_class: int | None,
    sheets: Path | None,
    as_json: bool,
) -> None:
    """Tell which classes of SOURCE are collapsed, narrow or alike: a checkpoint folder, or a package."""
    from graftgan.classes import diagnose, real_features, table_lines, write_sheets
    from graftgan.errors import ConfigError
    from graftgan.gans.class_table import class_table
    from graftgan.metrics.features import make_extractor
    from graftgan.sampling import open_generator

    generator = open_generator(source)
    try:
        known = len(class_table(generator))
    except ConfigError as error:
        raise ConfigError(
            f"{source}: {error.message}", "give a conditional source, such as zoo/groups"
        ) from None
    if dataset_class is not None and (dataset is None or dataset_class >= known):
        needs = (
            "needs --dataset" if dataset is None else f"is not one of {source}, which has 0 to {known - 1}"
        )
        raise ConfigError(f"--dataset-class {dataset_class} {needs}", "correct the options")
    network = make_extractor(extractor)
    real = real_features(dataset, network, generator, dataset_class) if dataset is not None else None
    classes, images = diagnose(generator, network, samples, seed, real, class_names(source))
    if sheets is not None:
        write_sheets(images, sheets)
    if as_json:
        facts = {"source": str(source), "protocol": network.protocol, "samples": samples, "seed": seed}
        click.echo(json.dumps({**facts, "classes": [one.to_dict() for one in classes]}, indent=2))
    else:
        click.echo("\n".join(table_lines(classes)))


def class_names(source: Path) -> list[str]:
    """Return the names of the classes that the card beside a source tells, or none."""
    from graftgan.contract import read_json

    card = source / "card.json"
    if not card.is_file():
        return []
    data = read_json(card).get("data", {})
    return [str(one.get("data", "")) for one in data.get("classes", [])]
