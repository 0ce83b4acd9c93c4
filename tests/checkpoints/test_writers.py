from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from graftgan.checkpoints import readers
from graftgan.checkpoints.content import open_content
from graftgan.checkpoints.imported import Imported
from graftgan.checkpoints.store import save_gan, save_tensors
from graftgan.checkpoints.writers import WRITERS
from graftgan.errors import CheckpointError, ConfigError
from graftgan.gans.base import build
from graftgan.gans.stylegan2 import StyleGAN2Spec, build_networks
from tests.checkpoints.files import (
    TINY,
    discriminator_filters,
    generator_filters,
    nvidia_pickle,
    part,
    put,
    random_tensors,
    rosinality_tree,
    saved,
)

TENSORS = random_tensors()
STATE_NAMES = ["x.pt", "x.safetensors"]


def read(path: Path) -> Imported:
    return readers.read(open_content(path))


def differing(first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    """Names whose tensors are not the same bits."""
    missing = set(first) ^ set(second)
    return missing | {n for n in set(first) & set(second) if not torch.equal(first[n], second[n])}


def test_import_export_import_in_nvidias_names_is_bit_identical(tmp_path: Path) -> None:
    for number, spec in enumerate((TINY, replace(TINY, classes=3, mbstd_group=2, channels=1))):
        tensors = random_tensors(spec)
        first = read(put(tmp_path / f"{number}.pkl", nvidia_pickle(tensors, spec)))
        for name in STATE_NAMES:
            out = tmp_path / f"{number}{name}"
            WRITERS["stylegan2-ada-state"](first.tensors, first.spec, out)
            second = read(out)
            assert (second.format, second.spec) == ("nvidia", spec)
            assert differing(first.tensors, second.tensors) == set()


def test_import_export_import_in_rosinalitys_names_is_bit_identical(tmp_path: Path) -> None:
    first = read(put(tmp_path / "a.pt", saved(rosinality_tree(TENSORS))))
    WRITERS["rosinality"](first.tensors, first.spec, tmp_path / "b.pt")
    second = read(tmp_path / "b.pt")
    assert (second.format, second.spec) == ("rosinality", first.spec)
    assert differing(first.tensors, second.tensors) == {"generator.mapping.w_avg"}


def test_nvidia_to_rosinality_and_back(tmp_path: Path) -> None:
    first = read(put(tmp_path / "a.pkl", nvidia_pickle(TENSORS)))
    notes = WRITERS["rosinality"](first.tensors, first.spec, tmp_path / "b.pt")
    second = read(tmp_path / "b.pt")
    WRITERS["stylegan2-ada-state"](second.tensors, second.spec, tmp_path / "c.pt")
    third = read(tmp_path / "c.pt")
    assert differing(first.tensors, third.tensors) == {"generator.mapping.w_avg"}
    assert replace(third.spec, label_layers=TINY.label_layers) == TINY
    assert any("that of g is lost" in note for note in notes)


def test_the_rosinality_file_is_what_that_project_saves(tmp_path: Path) -> None:
    tree = rosinality_tree(TENSORS)
    WRITERS["rosinality"](TENSORS, TINY, tmp_path / "a.pt")
    written = torch.load(tmp_path / "a.pt", weights_only=True)
    assert set(written) == {"g", "g_ema", "d", "latent_avg"}
    for name in ("g", "g_ema", "d"):
        assert differing(written[name], tree[name]) == set()
    assert torch.equal(written["latent_avg"], TENSORS["generator_ema.mapping.w_avg"])


def test_the_state_of_nvidias_names_loads_into_that_projects_modules(tmp_path: Path) -> None:
    WRITERS["stylegan2-ada-state"](TENSORS, TINY, tmp_path / "a.pt")
    written = torch.load(tmp_path / "a.pt", weights_only=True)
    assert differing(written["G"], part(TENSORS, "generator") | generator_filters(TINY)) == set()
    assert differing(written["D"], part(TENSORS, "discriminator") | discriminator_filters(TINY)) == set()
    kwargs = written["init_kwargs"]
    assert kwargs["G_ema"]["synthesis_kwargs"] == {"channel_base": 128, "channel_max": 8}
    assert kwargs["G"]["mapping_kwargs"] == {"num_layers": 3}
    assert kwargs["D"]["epilogue_kwargs"] == {"mbstd_group_size": 4}


def test_the_safetensors_tell_their_arguments(tmp_path: Path) -> None:
    notes = WRITERS["stylegan2-ada-state"](TENSORS, TINY, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        kwargs = json.loads(file.metadata()["init_kwargs"])
    assert kwargs["D"]["mapping_kwargs"] == {"num_layers": 2}
    assert "init_kwargs" in notes[0]


def test_full_size_has_the_published_number_of_tensors(tmp_path: Path) -> None:
    spec = StyleGAN2Spec(resolution=256, channel_base=16384)
    with torch.device("meta"):
        generator, discriminator = build_networks(spec)
    from graftgan.checkpoints.writers import _filter_owners

    assert len(generator.state_dict()) + len(_filter_owners(generator.state_dict())) == 144
    assert len(discriminator.state_dict()) + len(_filter_owners(discriminator.state_dict())) == 64


def test_a_generator_alone_is_written_alone(tmp_path: Path) -> None:
    alone = {name: t for name, t in TENSORS.items() if not name.startswith("discriminator.")}
    WRITERS["rosinality"](alone, TINY, tmp_path / "r.pt")
    assert "d" not in torch.load(tmp_path / "r.pt", weights_only=True)
    WRITERS["stylegan2-ada-state"](alone, TINY, tmp_path / "n.pt")
    assert read(tmp_path / "n.pt").absent == read(tmp_path / "r.pt").absent == ("discriminator",)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (replace(TINY, classes=2), "classes"),
        (replace(TINY, channels=1), "1 image channels"),
        (replace(TINY, z_dim=9), "z of length 9 and w of length 8"),
    ],
    ids=["classes", "grey", "z"],
)
def test_networks_that_rosinality_has_no_place_for_are_refused(
    tmp_path: Path, spec: StyleGAN2Spec, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        WRITERS["rosinality"](random_tensors(spec), spec, tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()


@pytest.mark.parametrize("name", ["rosinality", "stylegan2-ada-state"])
def test_other_families_are_refused(tmp_path: Path, name: str) -> None:
    class Other:
        family = "biggan"

    with pytest.raises(ConfigError, match="not biggan"):
        WRITERS[name]({}, Other(), tmp_path / "a.pt")


def test_what_the_layout_cannot_tell_is_said(tmp_path: Path) -> None:
    notes = WRITERS["rosinality"](TENSORS, replace(TINY, mbstd_group=8), tmp_path / "a.pt")
    assert any("group, 8" in note for note in notes)
    assert any("channel_multiplier" in note for note in notes)
    stock = StyleGAN2Spec(resolution=32, z_dim=4, w_dim=4, mapping_layers=1, channel_base=16384)
    with torch.device("meta"):
        generator, _ = build_networks(stock)
    from graftgan.checkpoints.writers import _rosinality_notes

    zero = {f"{net}.mapping.w_avg": torch.zeros(4) for net in ("generator", "generator_ema")}
    assert len(generator.state_dict()) > 0
    assert _rosinality_notes(zero, stock) == ()


def test_our_own_folder_is_read_bit_by_bit(tmp_path: Path) -> None:
    gan = build(TINY, seed=4)
    save_gan(gan, tmp_path)
    result = read(tmp_path)
    assert (result.format, result.spec, result.absent) == ("graftgan", TINY, ())
    assert torch.equal(result.tensors["generator.synthesis.b4.const"], gan.generator.synthesis.b4.const)
    by_file = read(tmp_path / "gan.safetensors")
    assert differing(result.tensors, by_file.tensors) == set()


def test_our_own_folder_of_a_generator_alone(tmp_path: Path) -> None:
    gan = build(TINY, seed=4)
    gan.fresh = ("discriminator",)
    save_gan(gan, tmp_path)
    assert read(tmp_path).absent == ("discriminator",)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mapping_layers": 4}, "mapping.fc3"),
        ({"mapping_layers": 10**9}, "mapping_layers 1000000000"),
        ({"resolution": 33}, "resolution is 33"),
        ({"novelty": 1}, "novelty"),
        ({"z_dim": "many"}, "z_dim is 'many'"),
        ({"family": "unheard"}, "unheard"),
    ],
)
def test_our_own_folder_with_another_spec_is_refused(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    save_tensors(TENSORS, tmp_path / "gan.safetensors")
    (tmp_path / "spec.json").write_text(json.dumps(TINY.to_dict() | change))
    with pytest.raises(CheckpointError, match=says) as error:
        read(tmp_path)
    assert error.value.exit_code == 5


def test_our_own_folder_with_another_tensor_is_refused(tmp_path: Path) -> None:
    save_tensors(TENSORS | {"stray.weight": torch.ones(1)}, tmp_path / "gan.safetensors")
    (tmp_path / "spec.json").write_text(json.dumps(TINY.to_dict()))
    with pytest.raises(CheckpointError, match="stray"):
        read(tmp_path)


def test_translation_networks_have_a_writer() -> None:
    assert set(WRITERS) == {"rosinality", "stylegan2-ada-state", "cyclegan"}
