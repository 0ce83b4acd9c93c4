"""The shipped sources are what their catalogues say: whole, loadable, described, and small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from graftgan.checkpoints.catalogue import Catalogue, Source
from graftgan.checkpoints.store import SPEC, WEIGHTS, load_gan, read_tensors
from graftgan.contract import digest_file
from graftgan.gans.base import sample

ZOO = Path(__file__).parents[2] / "zoo"
CATALOGUES = sorted(file for file in ZOO.glob("*.yaml") if file.name != "recipes.yaml")
ENTRIES = [(file, source) for file in CATALOGUES for source in Catalogue(file).sources]
MOST_BYTES = 60_000_000
LICENCES = {"CC0-1.0", "CC-BY-4.0", "MIT"}


def folder_of(file: Path, source: Source) -> Path:
    assert source.path is not None, "what ships is a file"
    return file.parent / source.path


def ids(entry: tuple[Path, Source]) -> str:
    return entry[1].name


@pytest.fixture(params=ENTRIES, ids=ids)
def entry(request: pytest.FixtureRequest) -> tuple[Path, Source]:
    return request.param  # type: ignore[no-any-return]


def test_every_folder_is_in_a_catalogue_and_every_entry_has_a_folder() -> None:
    folders = {path.name for path in ZOO.iterdir() if path.is_dir() and path.name != "__pycache__"}
    listed = [folder_of(file, source).name for file, source in ENTRIES]
    assert sorted(listed) == sorted(folders)


def test_there_are_enough_sources_of_the_kinds_that_a_ranking_needs() -> None:
    sources = Catalogue(ZOO / "catalogue.yaml").sources
    assert len(sources) >= 6
    assert any("broad" in source.domain for source in sources)
    assert {source.name for source in sources} >= {"mixture", "peeps-narrow", "toon-head-early"}
    early, late = (next(s for s in sources if s.name == name) for name in ("toon-head-early", "toon-head"))
    assert early.kimg is not None and late.kimg is not None and early.kimg < late.kimg / 2


def test_the_whole_zoo_is_small() -> None:
    assert sum(file.stat().st_size for file in ZOO.rglob("*") if file.is_file()) < MOST_BYTES


def test_the_weights_are_those_of_the_catalogue(entry: tuple[Path, Source]) -> None:
    file, source = entry
    assert digest_file(folder_of(file, source) / WEIGHTS) == source.sha256


def test_it_loads_through_the_catalogue_and_its_samples_are_pictures(
    entry: tuple[Path, Source], tmp_path: Path
) -> None:
    file, source = entry
    catalogue = Catalogue(file)
    gan = catalogue.load(source, tmp_path)
    assert gan.spec == catalogue.spec(source, tmp_path)
    assert (gan.spec.resolution, gan.spec.channels) == (source.resolution, 3)
    # Keys at their defaults may be left out of the file.
    whole = json.loads(json.dumps(gan.spec.to_dict()))
    assert whole == whole | json.loads((folder_of(file, source) / SPEC).read_text())
    for name, tensor in read_tensors(folder_of(file, source) / WEIGHTS).items():
        assert tensor.isfinite().all() if tensor.is_floating_point() else True, name
    images = sample(gan.generator_ema, 12, 0)
    assert images.shape == (12, source.resolution, source.resolution, 3)
    # Neither flat nor noise: most pictures vary, and neighbouring pixels are alike.
    values = images.astype(np.float64)
    assert np.median(values.reshape(12, -1).std(axis=1)) > 20
    steps = np.abs(np.diff(values, axis=2)).mean()
    assert steps < 0.8 * np.abs(values - values.mean()).mean()


def test_different_latents_give_different_pictures(entry: tuple[Path, Source]) -> None:
    file, source = entry
    images = sample(load_gan(folder_of(file, source)).generator_ema, 12, 0)
    assert len({image.tobytes() for image in images}) == 12


def test_the_card_tells_data_licence_recipe_and_scores_by_protocol(entry: tuple[Path, Source]) -> None:
    file, source = entry
    card = json.loads((folder_of(file, source) / "card.json").read_text())
    assert card["name"] == source.name
    assert card["title"] == source.title
    assert card["kimg"] == source.kimg
    assert card["data"]["images"] == source.images
    assert card["domain"] == source.domain
    assert card["data"]["licence"] == source.licence
    assert set(source.licence.split(" AND ")) <= LICENCES
    assert card["data"]["attribution"]
    assert card["data"]["images"] > 0
    assert card["recipe"]["batch"] > 0
    assert "@" in card["scores"]["protocol"]
    extractor = card["scores"]["protocol"].split("@")[0]
    for name, score in card["scores"]["values"].items():
        assert name.endswith(f"_{extractor}")
        assert np.isfinite(score["value"])
    assert card["network"] == json.loads(json.dumps(load_gan(folder_of(file, source)).spec.to_dict()))


def test_the_sheet_is_a_picture(entry: tuple[Path, Source]) -> None:
    file, source = entry
    picture = Image.open(folder_of(file, source) / "samples.png")
    picture.load()
    assert min(picture.size) > 4 * source.resolution


def test_every_source_can_be_rebuilt_from_a_recipe() -> None:
    recipes = yaml.safe_load((ZOO / "recipes.yaml").read_text())
    names = {source.name for _, source in ENTRIES}
    assert names <= told(recipes)


def told(recipes: object) -> set[str]:
    """Return every key and every name in the recipes."""
    if isinstance(recipes, dict):
        below = set().union(*map(told, recipes.values())) if recipes else set()
        return set(map(str, recipes)) | below
    if isinstance(recipes, list):
        return set().union(*map(told, recipes)) if recipes else set()
    return {str(recipes)}
