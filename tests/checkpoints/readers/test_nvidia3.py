from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from graftgan.checkpoints.imported import Imported
from graftgan.checkpoints.readers.nvidia3 import Network, read_networks
from graftgan.checkpoints.store import assemble
from graftgan.errors import CheckpointError
from graftgan.gans.base import build
from graftgan.gans.stylegan3 import StyleGAN3Spec

PATH = Path("network.pkl")
SMALL = StyleGAN3Spec(
    resolution=32, z_dim=6, w_dim=5, channel_base=64, channel_max=4, num_layers=4, num_critical=1,
    mbstd_group=2, label_layers=2,
)  # fmt: skip
BLUR_PLACES = ("b32", "b32.fromrgb", "b32.conv0", "b32.conv1", "b32.skip", "b16.conv0")
TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0])


def _arguments(spec: StyleGAN3Spec) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the repository's networks keep of how they were made."""
    double = 2 if spec.variant == "r" else 1
    common = {"c_dim": spec.classes, "img_resolution": spec.resolution, "img_channels": spec.channels}
    generator = {
        **common,
        "z_dim": spec.z_dim,
        "w_dim": spec.w_dim,
        "mapping_kwargs": {"num_layers": spec.mapping_layers},
        "channel_base": spec.channel_base * double,
        "channel_max": spec.channel_max * double,
        "num_layers": spec.num_layers,
        "num_critical": spec.num_critical,
        "magnitude_ema_beta": 0.9988915792636801,
    }
    if spec.variant == "r":
        generator |= {"conv_kernel": 1, "use_radial_filters": True}
    critic = {
        **common,
        "channel_base": spec.channel_base,
        "channel_max": spec.channel_max,
        "mapping_kwargs": {"num_layers": spec.label_layers},
        "block_kwargs": {"freeze_layers": 0},
        "epilogue_kwargs": {"mbstd_group_size": spec.mbstd_group},
    }
    return generator, critic


def _file(spec: StyleGAN3Spec = SMALL, seed: int = 0) -> dict[str, Network]:
    """Networks as the repository would have pickled them, with values of our own."""
    gan = build(spec, seed=seed)
    generator, critic = _arguments(spec)
    states = []
    for net in (gan.generator, gan.generator_ema, gan.discriminator):
        state = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
        for name, tensor in state.items():
            if not name.endswith("_filter"):
                tensor.add_(len(states))
        states.append(state)
    for place in BLUR_PLACES:
        states[2][f"{place}.resample_filter"] = torch.outer(TAPS, TAPS) / 64
    return {"G": (states[0], generator), "G_ema": (states[1], dict(generator)), "D": (states[2], critic)}


def _read(networks: dict[str, Network]) -> Imported:
    return read_networks(networks, PATH)


@pytest.mark.parametrize(
    "spec",
    [
        SMALL,
        dataclasses.replace(SMALL, variant="r"),
        dataclasses.replace(SMALL, classes=3, channels=1, mapping_layers=3),
    ],
    ids=["t", "r", "conditional"],
)
def test_every_tensor_arrives_under_its_name(spec: StyleGAN3Spec) -> None:
    file = _file(spec)
    imported = _read(file)
    assert imported.spec == spec
    assert (imported.format, imported.absent, imported.made, imported.notes) == ("nvidia", (), {}, ())
    gan = assemble(imported.spec, imported.tensors, PATH)
    for theirs, ours in (("G", "generator"), ("G_ema", "generator_ema"), ("D", "discriminator")):
        state = getattr(gan, ours).state_dict()
        wanted = {k: v for k, v in file[theirs][0].items() if not k.endswith("resample_filter")}
        assert state.keys() == wanted.keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in wanted.items())
    assert set(imported.skipped) == {f"D.{place}.resample_filter" for place in BLUR_PLACES}


def test_arguments_left_out_have_the_defaults_of_the_repository() -> None:
    file = _file()
    del file["D"]
    spec = dataclasses.replace(SMALL, num_layers=14, num_critical=2)
    small = _file(spec)["G_ema"]
    kwargs = {k: v for k, v in small[1].items() if k not in ("num_layers", "num_critical", "mapping_kwargs")}
    imported = _read({"G_ema": (small[0], kwargs)})
    assert (imported.spec.num_layers, imported.spec.num_critical) == (14, 2)
    assert (imported.spec.first_stopband, imported.spec.margin_size) == (2**2.1, 10)
    assert imported.spec.mapping_layers == 2


@pytest.mark.parametrize(("kept", "lacking"), [("G_ema", "G"), ("G", "G_ema")])
def test_one_generator_stands_for_both(kept: str, lacking: str) -> None:
    file = _file()
    imported = _read({kept: file[kept]})
    assert imported.absent == ("discriminator",)
    assert len(imported.notes) == 1 and imported.notes[0].startswith(f"The file holds no {lacking};")
    for name, tensor in file[kept][0].items():
        assert torch.equal(imported.tensors[f"generator.{name}"], tensor)
        assert torch.equal(imported.tensors[f"generator_ema.{name}"], tensor)


def test_half_precision_is_widened() -> None:
    file = _file()
    state = file["D"][0]
    state["b32.conv0.weight"] = state["b32.conv0.weight"].half()
    tensor = _read(file).tensors["discriminator.b32.conv0.weight"]
    assert tensor.dtype is torch.float32
    assert torch.equal(tensor, state["b32.conv0.weight"].float())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"channel_max": 8}, "channel_max is 8, not 4"),
        ({"architecture": "skip"}, "architecture is skip"),
        ({"epilogue_kwargs": {"mbstd_num_channels": 2}}, "mbstd_num_channels is 2"),
    ],
)
def test_another_discriminator_is_left_out_with_its_reason(change: dict[str, Any], word: str) -> None:
    file = _file()
    file["D"] = (file["D"][0], file["D"][1] | change)
    imported = _read(file)
    assert imported.absent == ("discriminator",)
    assert not any(name.startswith("discriminator.") for name in imported.tensors)
    assert set(imported.skipped) == {f"D.{name}" for name in file["D"][0]}
    assert word in imported.notes[0]


def test_training_without_a_limit_is_noted() -> None:
    file = _file()
    file["G_ema"][1]["conv_clamp"] = None
    assert _read(file).notes == ("G_ema was made without the limit of 256 on activations, which ours has.",)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"conv_kernel": 1}, "conv_kernel 1 and use_radial_filters False"),
        ({"use_radial_filters": True}, "conv_kernel 3 and use_radial_filters True"),
        ({"filter_size": 8}, "filter_size"),
        ({"lrelu_upsampling": 4}, "lrelu_upsampling"),
        ({"output_scale": 1.0}, "output_scale"),
        ({"conv_clamp": 128}, "conv_clamp"),
        ({"extra": 1}, "extra"),
        ({"num_layers": [4]}, "num_layers of type list"),
        ({"num_layers": torch.ones(2)}, "num_layers of type Tensor"),
        ({"num_layers": 10**9}, "num_layers"),
        ({"num_layers": 5}, "would load in part only"),
        ({"num_critical": 2}, "would load in part only"),
        ({"channel_base": 128}, "would load in part only"),
        ({"w_dim": 7}, "would load in part only"),
        ({"margin_size": 8}, "would load in part only"),
        ({"c_dim": 2}, "would load in part only"),
        ({"img_resolution": 48}, "resolution is 48"),
        ({"img_resolution": None}, "img_resolution"),
        ({"first_cutoff": 2.1}, "up_filter is not the filter"),
        ({"last_stopband_rel": 1.5}, "down_filter is not the filter"),
        ({"first_cutoff": float("nan")}, "first_cutoff"),
        ({"mapping_kwargs": {"num_layers": 8}}, "mapping has 2 layers, its arguments say 8"),
        ({"mapping_kwargs": {"num_layers": 2, "lr_multiplier": 0.1}}, "lr_multiplier"),
    ],
)
def test_arguments_that_the_tensors_do_not_bear_out(change: dict[str, Any], word: str) -> None:
    file = {name: (state, kwargs | change) for name, (state, kwargs) in _file().items() if name != "D"}
    with pytest.raises(CheckpointError, match=r"network\.pkl") as caught:
        _read(file)
    assert word in caught.value.message


def _drop(state: dict[str, Tensor]) -> None:
    del state["synthesis.input.freqs"]


def _add(state: dict[str, Tensor]) -> None:
    state["synthesis.L9_1_1.weight"] = torch.ones(1)


def _reshape(state: dict[str, Tensor]) -> None:
    state["synthesis.input.transform"] = torch.ones(3, 4)


def _integers(state: dict[str, Tensor]) -> None:
    state["synthesis.input.phases"] = torch.ones(4, dtype=torch.int64)


def _sharpen(state: dict[str, Tensor]) -> None:
    name = next(name for name in state if name.endswith("L1_36_4.down_filter"))
    state[name] = state[name].roll(1)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (_drop, "synthesis.input.freqs"),
        (_add, "synthesis.L9_1_1.weight"),
        (_reshape, "synthesis.input.transform"),
        (_integers, "synthesis.input.phases is of type torch.int64"),
        (_sharpen, "L1_36_4.down_filter is not the filter"),
    ],
)
@pytest.mark.parametrize("network", ["G", "G_ema"])
def test_damaged_generators_are_refused_by_name(network: str, damage: Any, word: str) -> None:
    file = _file()
    damage(file[network][0])
    with pytest.raises(CheckpointError) as caught:
        _read(file)
    assert word in caught.value.message


def test_another_blur_is_refused() -> None:
    file = _file()
    file["D"][0]["b32.skip.resample_filter"] = torch.ones(4, 4) / 16
    with pytest.raises(CheckpointError, match=r"b32\.skip\.resample_filter"):
        _read(file)


def test_files_without_a_generator_or_with_two_kinds_are_refused() -> None:
    file = _file()
    with pytest.raises(CheckpointError, match="holds no generator"):
        _read({"D": file["D"]})
    other = _file(dataclasses.replace(SMALL, channel_max=2))
    with pytest.raises(CheckpointError, match="different arguments"):
        _read({"G": other["G"], "G_ema": file["G_ema"]})
