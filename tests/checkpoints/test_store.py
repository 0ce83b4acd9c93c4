from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from graftgan.checkpoints.store import (
    NETWORKS,
    SPEC,
    WEIGHTS,
    LoadTable,
    compare,
    gan_tensors,
    load_gan,
    load_network,
    read_spec,
    read_tensors,
    save_gan,
    stored_networks,
)
from graftgan.contract import digest_path
from graftgan.errors import CheckpointError, MissingInput
from graftgan.gans.base import Gan, build
from graftgan.gans.stylegan2 import StyleGAN2Spec

TINY = StyleGAN2Spec(resolution=32, z_dim=8, w_dim=8, mapping_layers=1, channel_base=128, channel_max=8)
A_WEIGHT = "discriminator.b8.conv0.weight"


@pytest.fixture
def gan() -> Gan:
    gan = build(TINY, seed=3)
    with torch.no_grad():
        for parameter in gan.generator_ema.parameters():
            parameter.mul_(0.5)
    return gan


@pytest.fixture
def folder(tmp_path: Path, gan: Gan) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    save_gan(gan, folder)
    return folder


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Rewrite the weights with tensors put in or (None) taken out; dots are written as two underscores."""
    held = load_file(folder / WEIGHTS)
    for name, tensor in tensors.items():
        dotted = name.replace("__", ".")
        if tensor is None:
            del held[dotted]
        else:
            held[dotted] = tensor
    save_file(held, folder / WEIGHTS)


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_gan(folder)
    assert error.value.exit_code == 5
    assert error.value.remedy
    return str(error.value)


def test_a_generator_alone_leaves_the_discriminator_fresh_and_is_saved_alone(
    tmp_path: Path, folder: Path
) -> None:
    held = load_file(folder / WEIGHTS)
    alone = {name: tensor for name, tensor in held.items() if not name.startswith("discriminator.")}
    save_file(alone, folder / WEIGHTS)
    gan = load_gan(folder)
    assert gan.fresh == ("discriminator",)
    assert torch.equal(gan.generator_ema.synthesis.b4.const, alone["generator_ema.synthesis.b4.const"])
    save_gan(gan, tmp_path)
    assert set(load_file(tmp_path / WEIGHTS)) == set(alone)


def test_a_gan_comes_back_bit_for_bit(folder: Path, gan: Gan) -> None:
    again = load_gan(folder)
    assert again.spec == gan.spec
    for network in NETWORKS:
        mine, other = getattr(gan, network).state_dict(), getattr(again, network).state_dict()
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine)
    assert not again.generator_ema.training
    assert not any(parameter.requires_grad for parameter in again.generator_ema.parameters())
    assert all(parameter.requires_grad for parameter in again.generator.parameters())


def test_equal_networks_give_equal_bytes_whatever_their_memory_layout(tmp_path: Path, gan: Gan) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_gan(gan, tmp_path / name)
        gan.discriminator.to(memory_format=torch.channels_last)
    assert digest_path(tmp_path / "a") == digest_path(tmp_path / "b")


def test_collected_tensors_are_copies(gan: Gan) -> None:
    tensors = gan_tensors(gan, ["discriminator"])
    assert {name.split(".")[0] for name in tensors} == {"discriminator"}
    before = tensors[A_WEIGHT].clone()
    with torch.no_grad():
        gan.discriminator.get_parameter("b8.conv0.weight").zero_()
    assert torch.equal(tensors[A_WEIGHT], before)


def test_the_load_table_tells_every_kind_of_difference() -> None:
    expected = {"a": torch.zeros(2), "b": torch.zeros(2, 3), "c": torch.zeros(1), "d": torch.zeros(1)}
    found = {"a": torch.ones(2), "b": torch.ones(3, 2), "e": torch.ones(1)}
    table = compare(found, expected)
    assert table == LoadTable(("a",), ("c", "d"), ("e",), ("b: [3, 2], [2, 3]",))
    assert not table.whole
    assert str(table) == "1 loaded, 2 missing (c, d), 1 unexpected (e), 1 reshaped (b: [3, 2], [2, 3])"
    assert compare(expected, expected).whole


def test_a_long_table_is_cut() -> None:
    expected = {name: torch.zeros(1) for name in "abcdef"}
    assert str(compare({}, expected)) == "0 loaded, 6 missing (a, b, c and 3 more)"


def test_a_load_that_fails_changes_nothing(gan: Gan) -> None:
    tensors = {name: torch.zeros_like(t) for name, t in gan.discriminator.state_dict().items()}
    del tensors["b8.conv0.weight"]
    before = gan_tensors(gan)
    with pytest.raises(CheckpointError):
        load_network(gan.discriminator, tensors, Path("x"))
    after = gan_tensors(gan)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_load_that_works_tells_how_many(gan: Gan) -> None:
    other = build(TINY, seed=4).discriminator
    table = load_network(gan.discriminator, other.state_dict(), Path("x"))
    assert table.whole
    assert len(table.loaded) == len(other.state_dict())
    weight = gan.discriminator.get_parameter("b8.conv0.weight")
    assert torch.equal(weight, other.get_parameter("b8.conv0.weight"))


def test_a_missing_tensor_is_named(folder: Path) -> None:
    change(folder, discriminator__b8__conv0__weight=None)
    assert "1 missing (b8.conv0.weight)" in refused(folder)


def test_an_unexpected_tensor_is_named(folder: Path) -> None:
    change(folder, generator__extra=torch.zeros(1))
    assert "1 unexpected (extra)" in refused(folder)


def test_a_tensor_of_no_network_is_named(folder: Path) -> None:
    change(folder, classifier__weight=torch.zeros(1))
    assert "unknown tensors: classifier.weight" in refused(folder)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder: Path) -> None:
    change(folder, discriminator__b8__conv0__weight=torch.zeros(8, 8, 1, 1))
    assert "b8.conv0.weight: [8, 8, 1, 1], [8, 8, 3, 3]" in refused(folder)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_tensor_that_is_not_finite_is_named(folder: Path, value: float) -> None:
    change(folder, generator_ema__synthesis__b4__const=torch.full((8, 4, 4), value))
    message = refused(folder)
    assert "not finite in synthesis.b4.const" in message


def test_a_whole_network_that_is_absent_is_refused(folder: Path) -> None:
    held = load_file(folder / WEIGHTS)
    save_file({n: t for n, t in held.items() if not n.startswith("generator_ema.")}, folder / WEIGHTS)
    assert "0 loaded" in refused(folder)


def test_the_spec_must_fit_the_weights(folder: Path) -> None:
    (folder / SPEC).write_text(json.dumps({**TINY.to_dict(), "channels": 1}))
    assert "reshaped" in refused(folder)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_weights_are_refused(folder: Path, share: float) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: int(len(whole) * share)])
    assert "is not a whole safetensors file" in refused(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04 a pickle in a zip, as torch.save writes",
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 4) + b"{{{{",
        b"\x80\x04\x95",
    ],
)
def test_what_is_no_safetensors_file_is_refused_and_never_unpickled(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)
    assert "is not a whole safetensors file" in refused(folder)


@pytest.mark.parametrize("name", [WEIGHTS, SPEC])
def test_an_absent_file_is_a_missing_input(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(MissingInput, match=name) as error:
        load_gan(folder)
    assert error.value.exit_code == 4


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "not valid JSON"),
        ("[1, 2]", "describe a network"),
        ('"x"', "describe a network"),
        ("null", "describe a network"),
        ('{"family": "stylegan2", "resolution": 33}', "resolution is 33"),
        ('{"family": "stylegan2", "resolution": "32"}', "resolution is '32'"),
        ('{"family": "stylegan2", "width": 32}', "unknown key"),
    ],
)
def test_a_spec_that_describes_no_network_is_refused(folder: Path, content: str, why: str) -> None:
    (folder / SPEC).write_text(content)
    assert why in refused(folder)


def test_an_unknown_family_is_refused(folder: Path) -> None:
    (folder / SPEC).write_text(json.dumps({**TINY.to_dict(), "family": "biggish"}))
    with pytest.raises(Exception, match="biggish"):
        load_gan(folder)


def test_a_spec_alone_can_be_read(folder: Path) -> None:
    assert read_spec(folder / SPEC) == TINY


def test_tensors_alone_can_be_read(folder: Path, gan: Gan) -> None:
    tensors = read_tensors(folder / WEIGHTS)
    assert tensors.keys() == gan_tensors(gan).keys()
    with pytest.raises(MissingInput):
        read_tensors(folder)


def test_which_networks_a_file_holds_is_read_from_its_head(folder: Path, tmp_path: Path) -> None:
    assert stored_networks(folder / WEIGHTS) == set(NETWORKS)
    held = load_file(folder / WEIGHTS)
    alone = tmp_path / "alone.safetensors"
    save_file({n: t for n, t in held.items() if not n.startswith("discriminator.")}, alone)
    assert stored_networks(alone) == {"generator", "generator_ema"}
    with pytest.raises(MissingInput, match="does not exist"):
        stored_networks(tmp_path / "absent.safetensors")
    alone.write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        stored_networks(alone)
