from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graftgan.errors import ConfigError
from graftgan.gans.base import parameter_count
from graftgan.gans.translation import KINDS, TranslatorSpec, build_translator
from tests.gans.translation import reference
from tests.gans.translation.sizes import ALL, lively

SIDE = {"resnet_6": 16, "resnet_9": 16, "unet_128": 128, "unet_256": 256, "patchgan": 32}


def on_meta(**values: Any) -> nn.Module:
    with torch.device("meta"):
        return build_translator(TranslatorSpec(**values))


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize(
    ("values", "tensors", "parameters"),
    [
        ({}, 48, 11_378_179),
        ({"kind": "resnet_6"}, 36, 7_837_699),
        ({"kind": "unet_256", "norm": "batch"}, 82, 54_413_955),
        ({"kind": "unet_256"}, 32, 54_409_603),
        ({"kind": "patchgan", "in_channels": 6, "norm": "batch"}, 22, 2_768_705),
        ({"kind": "patchgan"}, 10, 2_764_737),
    ],
)
def test_counts_at_full_size(values: dict[str, Any], tensors: int, parameters: int) -> None:
    network = on_meta(**values)
    assert (len(network.state_dict()), parameter_count(network)) == (tensors, parameters)


def test_names_of_resnet_9() -> None:
    weights = {
        "model.1": (64, 3, 7, 7), "model.4": (128, 64, 3, 3), "model.7": (256, 128, 3, 3),
        **{f"model.{i}.conv_block.{j}": (256, 256, 3, 3) for i in range(10, 19) for j in (1, 5)},
        "model.19": (256, 128, 3, 3), "model.22": (128, 64, 3, 3), "model.26": (3, 64, 7, 7),
    }  # fmt: skip
    found = shapes(on_meta())
    assert {name: shape for name, shape in found.items() if name.endswith("weight")} == {
        f"{name}.weight": shape for name, shape in weights.items()
    }
    widths = {"model.19.bias": (128,), "model.22.bias": (64,)}
    assert {name: shape for name, shape in found.items() if name.endswith("bias")} == {
        f"{name}.bias": shape[:1] for name, shape in weights.items()
    } | widths


def test_dropout_moves_the_second_convolution_of_a_block() -> None:
    names = {name for name in shapes(on_meta(dropout=True)) if "model.10." in name and "weight" in name}
    assert names == {"model.10.conv_block.1.weight", "model.10.conv_block.6.weight"}


def test_batch_norm_takes_the_bias_from_all_convolutions_but_the_last() -> None:
    found = shapes(on_meta(kind="resnet_6", norm="batch"))
    assert {
        name for name in found if name.endswith("bias") and name.replace("bias", "running_var") not in found
    } == {"model.23.bias"}
    assert all(f"model.{place}.running_mean" in found for place in (2, 5, 8, 17, 20))


def test_names_of_unet_256() -> None:
    widths = (64, 128, 256, 512, 512, 512, 512, 512)
    expected: dict[str, tuple[int, ...]] = {
        "model.model.0.weight": (64, 3, 4, 4),
        "model.model.3.weight": (128, 3, 4, 4),
        "model.model.3.bias": (3,),
    }
    prefix = "model.model.1"
    for level in range(1, 8):
        up, norm, gathered = (3, 4, 1) if level == 7 else (5, 6, 2)
        expected[f"{prefix}.model.1.weight"] = (widths[level], widths[level - 1], 4, 4)
        expected[f"{prefix}.model.{up}.weight"] = (gathered * widths[level], widths[level - 1], 4, 4)
        norms = {norm: widths[level - 1]} if level == 7 else {2: widths[level], norm: widths[level - 1]}
        for place, width in norms.items():
            parts = ("weight", "bias", "running_mean", "running_var")
            expected |= {f"{prefix}.model.{place}.{part}": (width,) for part in parts}
            expected[f"{prefix}.model.{place}.num_batches_tracked"] = ()
        prefix += ".model.3"
    assert shapes(on_meta(kind="unet_256", norm="batch")) == expected


def test_names_of_the_patch_discriminator() -> None:
    found = shapes(on_meta(kind="patchgan", in_channels=6, norm="batch"))
    assert {name: shape for name, shape in found.items() if len(shape) == 4} == {
        "model.0.weight": (64, 6, 4, 4), "model.2.weight": (128, 64, 4, 4),
        "model.5.weight": (256, 128, 4, 4), "model.8.weight": (512, 256, 4, 4),
        "model.11.weight": (1, 512, 4, 4),
    }  # fmt: skip
    assert {name for name in found if name.endswith("running_mean")} == {
        f"model.{place}.running_mean" for place in (3, 6, 9)
    }


def expected_output(img: Tensor, state: dict[str, Tensor], spec: TranslatorSpec) -> Tensor:
    if spec.kind == "patchgan":
        return reference.patches(img, state)
    if spec.kind.startswith("unet"):
        return reference.unet(img, state, spec.depth)
    return reference.resnet(img, state, spec.depth, spec.dropout)


@pytest.mark.parametrize(
    "spec", [*ALL, TranslatorSpec(kind="resnet_6", ngf=2, dropout=True)], ids=lambda s: f"{s.kind}-{s.norm}"
)
def test_outputs_equal_the_formulas(spec: TranslatorSpec) -> None:
    network = lively(spec)
    side = SIDE[spec.kind]
    img = torch.rand(1, 3, side, side) * 2 - 1
    state = {name: tensor.double() for name, tensor in network.state_dict().items()}
    expected = expected_output(img.double(), state, spec)
    with torch.no_grad():
        out = network(img)
        exact = network.double()(img.double())
    assert exact.shape == expected.shape
    assert float(expected.std()) > 1e-3
    assert float((exact - expected).abs().max() / expected.abs().max()) <= 1e-9
    assert float((out - expected).abs().max() / expected.abs().max()) <= 1e-5


def test_a_patch_is_70_pixels_wide() -> None:
    """A logit in the middle reacts to 70x70 pixels and to none beyond."""
    network = lively(TranslatorSpec(kind="patchgan", norm="batch", ndf=2, out_channels=1))
    img = torch.randn(1, 3, 128, 128, requires_grad=True)
    logits = network(img)
    assert logits.shape == (1, 1, 14, 14)
    (gradient,) = torch.autograd.grad(logits[0, 0, 7, 7], img)
    touched = gradient.abs().sum((0, 1)).nonzero()
    assert (touched.max(0).values - touched.min(0).values + 1).tolist() == [70, 70]


def test_dropout_acts_in_training_only_and_where_it_was_published() -> None:
    network = build_translator(TranslatorSpec(kind="unet_256", norm="batch", ngf=2, dropout=True))
    places = [name for name, module in network.named_modules() if isinstance(module, nn.Dropout)]
    assert [name.count("model.3") for name in places] == [5, 4, 3]
    img = torch.rand(1, 3, 256, 256)
    network.eval()
    assert torch.equal(network(img), network(img))
    for name in places:
        network.get_submodule(name).train()
    assert not torch.equal(network(img), network(img))


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_a_gradient_step_moves_every_weight(norm: str) -> None:
    network = build_translator(TranslatorSpec(kind="resnet_6", norm=norm, ngf=2))
    before = {name: p.clone() for name, p in network.named_parameters()}
    adam = torch.optim.Adam(network.parameters(), lr=1e-2)
    (network(torch.rand(2, 3, 16, 16)) - torch.rand(2, 3, 16, 16)).abs().mean().backward()
    adam.step()
    still = {name for name, p in network.named_parameters() if torch.equal(p, before[name])}
    assert not still


def test_initial_weights_are_those_of_the_papers() -> None:
    torch.manual_seed(0)
    network = build_translator(TranslatorSpec(kind="unet_128", norm="batch", ngf=8)).requires_grad_(False)
    weights = torch.cat([p.flatten() for p in network.parameters() if p.ndim == 4])
    gains = torch.cat([p.flatten() for n, p in network.named_parameters() if p.ndim == 1 and "weight" in n])
    biases = torch.cat([p.flatten() for n, p in network.named_parameters() if n.endswith("bias")])
    assert abs(float(weights.std()) - 0.02) < 2e-4
    assert abs(float(weights.mean())) < 2e-4
    assert abs(float(gains.std()) - 0.02) < 5e-3
    assert abs(float(gains.mean()) - 1) < 5e-3
    assert not biases.any()


@pytest.mark.parametrize("spec", ALL, ids=lambda s: f"{s.kind}-{s.norm}")
def test_spec_round_trip_through_json(spec: TranslatorSpec) -> None:
    values = json.loads(json.dumps(spec.to_dict()))
    assert values["family"] == "translation"
    assert TranslatorSpec.from_dict(values) == spec


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "resnet_7"}, f"Use one of {', '.join(KINDS)}"),
        ({"kind": ["resnet_9"]}, "kind is"),
        ({"norm": "layer"}, "norm is 'layer'"),
        ({"dropout": 1}, "dropout is 1"),
        ({"ngf": 0}, "ngf is 0"),
        ({"ndf": "64"}, "ndf is '64'"),
        ({"in_channels": True}, "in_channels is True"),
        ({"depth": 9}, "unknown key in the translator spec: depth"),
        ({"family": "stylegan2"}, "family is 'stylegan2'"),
    ],
)
def test_wrong_specs_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TranslatorSpec.from_dict(values)
