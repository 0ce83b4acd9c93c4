from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from graftgan.checkpoints.catalogue import Catalogue
from graftgan.checkpoints.convert import (
    IMPORT,
    describe,
    export_checkpoint,
    import_checkpoint,
    read_checkpoint,
)
from graftgan.checkpoints.store import WEIGHTS, load_gan, save_gan
from graftgan.contract import digest_file
from graftgan.errors import CheckpointError, ConfigError
from graftgan.gans.base import build, sample
from graftgan.gans.stylegan2 import StyleGAN2Spec

TINY = StyleGAN2Spec(resolution=32, z_dim=8, w_dim=8, mapping_layers=2, channel_base=256, channel_max=8)
ABOUT = {"title": "Faces", "licence": "CC0-1.0", "domain": ["face"]}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of ours."""
    folder = tmp_path / "model"
    folder.mkdir()
    save_gan(build(TINY, seed=3), folder)
    return folder


@pytest.fixture
def public(model: Path, tmp_path: Path) -> Path:
    """The same model as another project writes it."""
    export_checkpoint(model, "rosinality", tmp_path / "public.pt")
    return tmp_path / "public.pt"


def test_an_import_samples_what_the_original_does(model: Path, public: Path, tmp_path: Path) -> None:
    entry = import_checkpoint(public, tmp_path / "faces", ABOUT)
    assert entry["resolution"] == 32 and entry["sha256"] == digest_file(tmp_path / "faces" / WEIGHTS)
    ours, theirs = (sample(load_gan(f).generator_ema, 3, 0) for f in (model, tmp_path / "faces"))
    assert (ours == theirs).all()


def test_the_import_tells_where_it_comes_from(public: Path, tmp_path: Path) -> None:
    import_checkpoint(public, tmp_path / "faces", ABOUT)
    record = json.loads((tmp_path / "faces" / IMPORT).read_text())
    assert record["format"] == "rosinality"
    assert record["source"] == {"file": "public.pt", "sha256": digest_file(public)}
    assert record["skipped"] and record["absent"] == []


def test_the_printed_entry_is_a_catalogue_entry(public: Path, tmp_path: Path) -> None:
    entry = import_checkpoint(public, tmp_path / "faces", ABOUT)
    (tmp_path / "catalogue.yaml").write_text(yaml.safe_dump([entry]))
    (source,) = Catalogue(tmp_path / "catalogue.yaml").sources
    assert Catalogue(tmp_path / "catalogue.yaml").load(source, tmp_path / "cache").spec.resolution == 32


def test_a_folder_that_exists_is_not_overwritten(model: Path, public: Path) -> None:
    before = digest_file(model / WEIGHTS)
    with pytest.raises(ConfigError, match="exists"):
        import_checkpoint(public, model, ABOUT)
    assert digest_file(model / WEIGHTS) == before


def test_a_refused_file_leaves_no_folder(tmp_path: Path) -> None:
    hostile = tmp_path / "evil.pkl"
    hostile.write_bytes(pickle.dumps({"G_ema": print}))
    with pytest.raises(CheckpointError, match="print"):
        import_checkpoint(hostile, tmp_path / "faces", ABOUT)
    assert [p.name for p in tmp_path.iterdir()] == ["evil.pkl"]


def test_values_that_are_not_finite_are_refused(model: Path) -> None:
    tensors = load_file(model / WEIGHTS)
    tensors["generator_ema.synthesis.b4.const"][0, 0, 0] = torch.nan
    from safetensors.torch import save_file

    save_file(tensors, model / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"b4\.const"):
        read_checkpoint(model)


def test_a_description_names_family_sizes_and_every_kind_of_tensor(public: Path) -> None:
    text = describe(public)
    for part in ("stylegan2 (rosinality)", "resolution 32", "mapping_layers 2", "discriminator:", "skipped"):
        assert part in text


def test_a_public_file_may_stand_in_the_catalogue(model: Path, public: Path, tmp_path: Path) -> None:
    entry = {"name": "faces", "path": "public.pt", "format": "public", "resolution": 32}
    path = tmp_path / "catalogue.yaml"
    path.write_text(yaml.safe_dump([entry | {"sha256": digest_file(public)}]))
    shelf = Catalogue(path)
    gan = shelf.load(shelf.sources[0], tmp_path / "cache")
    assert (sample(gan.generator_ema, 2, 0) == sample(load_gan(model).generator_ema, 2, 0)).all()
    weights = next((tmp_path / "cache").rglob(WEIGHTS))
    before = weights.read_bytes()
    rotten = bytearray(before)
    rotten[-2] ^= 4
    weights.write_bytes(rotten)
    shelf.load(shelf.sources[0], tmp_path / "cache")
    assert weights.read_bytes() == before, "what was converted is made again where a bit has turned"
    public.write_bytes(public.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="sha256"):
        shelf.load(shelf.sources[0], tmp_path / "cache")


@pytest.mark.parametrize("kind", ["rosinality", "stylegan2-ada-state", "safetensors"])
def test_export_and_import_are_inverse_bit_for_bit(model: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / f"out{'.safetensors' if kind != 'rosinality' else '.pt'}"
    export_checkpoint(model, kind, out)
    again = read_checkpoint(out)
    held = load_file(model / WEIGHTS)
    lost = set(held) - set(again.tensors)
    assert again.spec == TINY and not lost
    assert all(torch.equal(again.tensors[name], held[name]) for name in held)


def test_unknown_formats_and_formats_that_do_not_fit_are_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'gif'") as error:
        export_checkpoint(model, "gif", tmp_path / "x.gif")
    assert "onnx" in error.value.remedy
    with pytest.raises((ConfigError, CheckpointError)):
        export_checkpoint(model, "cyclegan", tmp_path / "x.pth")
    assert not (tmp_path / "x.pth").exists()
