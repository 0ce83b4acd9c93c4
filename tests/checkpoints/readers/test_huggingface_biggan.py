from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graftgan.checkpoints.imported import Content, Imported
from graftgan.checkpoints.readers import biggan
from graftgan.checkpoints.readers.huggingface_biggan import matches, read
from graftgan.errors import CheckpointError
from graftgan.gans.base import build
from graftgan.gans.biggan_deep import BigGANDeepGenerator, BigGANDeepSpec
from tests.gans.biggan.filling import fill
from tests.gans.biggan.reference import as_arrays
from tests.gans.biggan_deep.reference import generate
from tests.gans.biggan_deep.sizes import LAYERS, TINY

State = dict[str, Any]
CONFIG = {
    "output_dim": 32,
    "z_dim": 6,
    "class_embed_dim": 5,
    "channel_width": 4,
    "num_classes": 3,
    "layers": [list(layer) for layer in LAYERS],
    "attention_layer_position": 2,
    "eps": 1e-4,
    "n_stats": 51,
}


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return dict(fill(BigGANDeepGenerator(TINY)).state_dict())


def _file(tree: State, config: dict[str, Any] | None = None) -> Content:
    return Content(Path("pytorch_model.bin"), "torch", tree, config or {})


def _loaded(imported: Imported) -> BigGANDeepGenerator:
    generator = build(imported.spec, seed=3).generator_ema
    prefix = "generator_ema."
    part = {k.removeprefix(prefix): t for k, t in imported.tensors.items() if k.startswith(prefix)}
    generator.load_state_dict(part, strict=True)
    assert isinstance(generator, BigGANDeepGenerator)
    return generator


def test_read_generator_computes_the_published_formula(state: State) -> None:
    imported = read(_file(state, CONFIG))
    assert (imported.format, imported.absent) == ("huggingface_biggan", ("discriminator",))
    assert imported.spec == dataclasses.replace(TINY, d_ch=3, d_attn=())
    z, label = torch.randn(1, 6, generator=torch.Generator().manual_seed(1)), torch.tensor([2])
    img = _loaded(imported)(z, label)[0].detach().numpy()
    expected = generate(as_arrays(state), LAYERS, z[0].double().numpy(), 2, {50: 1.0}, 1e-4)
    np.testing.assert_allclose(img, expected, rtol=1e-5, atol=1e-5)


def test_every_tensor_is_accounted_for(state: State) -> None:
    imported = read(_file(state, CONFIG))
    assert {n.removeprefix("generator_ema.") for n in imported.tensors if "_ema" in n} == set(state)
    assert imported.made == {f"generator.{name}": f"copy of generator_ema.{name}" for name in state}
    assert not imported.skipped
    assert all(torch.equal(imported.tensors[f"generator.{name}"], t) for name, t in state.items())


def test_folder_with_its_config(state: State) -> None:
    tree = {"config.json": CONFIG, "pytorch_model.bin": state, "model.md": "text"}
    content = Content(Path("biggan-deep"), "folder", tree)
    assert matches(content)
    imported = read(content)
    assert imported.spec == read(_file(state, CONFIG)).spec
    assert dict(imported.skipped) == {"model.md": "no network"}


@pytest.mark.parametrize("resolution", [128, 512])
def test_published_sizes_are_known_without_config(resolution: int) -> None:
    wanted = BigGANDeepSpec(resolution=resolution, classes=1000)
    with torch.device("meta"):
        state = dict(BigGANDeepGenerator(wanted).state_dict())
    imported = read(_file({f"module.{name}": tensor for name, tensor in state.items()}))
    assert imported.spec == wanted
    assert any("no config" in note for note in imported.notes)


def test_eps_of_the_config_serves_both_norms(state: State) -> None:
    spec = read(_file(state, {**CONFIG, "eps": 1e-6})).spec
    assert (spec.bn_eps, spec.sn_eps) == (1e-6, 1e-6)


def test_unknown_layout_needs_the_config(state: State) -> None:
    with pytest.raises(CheckpointError, match=r"put config\.json beside it"):
        read(_file(state))


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("output_dim", 128, "output_dim is 128, the tensors say 32"),
        ("channel_width", 8, "channel_width is 8, the tensors say 4"),
        ("num_classes", 1000, "num_classes is 1000, the tensors say 3"),
        ("attention_layer_position", 8, "attention_layer_position is 8, the tensors say 2"),
        ("n_stats", 2, "n_stats is 2, the tensors say 51"),
        ("layers", [[True, 16, 1]], "output_dim is 32, the tensors say 8"),
        ("layers", "all", "no layout of BigGAN-deep"),
        ("eps", 0, "cannot be built: sn_eps"),
    ],
)
def test_config_against_the_tensors_is_refused(state: State, key: str, value: Any, why: str) -> None:
    with pytest.raises(CheckpointError, match=why):
        read(_file(state, {**CONFIG, key: value}))


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("generator.layers.0.conv_1.bias", None, "1 missing"),
        ("generator.layers.2.gamma", None, "no layout of BigGAN-deep"),
        ("generator.layers.9.gamma", torch.zeros(1), "no layout of BigGAN-deep"),
        ("generator.layers.0.bn_0.running_means", torch.zeros(51, 9), "1 reshaped"),
        ("extra", torch.zeros(1), r"1 unexpected \(extra\)"),
        ("embeddings.weight", torch.zeros(5), "no layout of BigGAN-deep"),
        ("embeddings.weight", torch.zeros(1, 1).expand(2**40, 3), "larger than its data"),
        ("generator.gen_z.bias", 3, "`generator.gen_z.bias` is not a tensor"),
    ],
)
def test_what_would_load_in_part_is_refused(state: State, name: str, value: Any, why: str) -> None:
    damaged = {key: tensor for key, tensor in state.items() if key != name}
    if value is not None:
        damaged[name] = value
    with pytest.raises(CheckpointError, match=why):
        read(_file(damaged, CONFIG))


def test_each_reader_knows_its_own(state: State) -> None:
    assert matches(_file(state))
    assert not biggan.matches(_file(state))
    for tree in (None, [], {}, {"embeddings.weight": torch.zeros(1)}, {"a": {"embeddings.weight": 1}}):
        assert not matches(Content(Path("x"), "torch", tree))
        assert not matches(Content(Path("x"), "folder", tree))
