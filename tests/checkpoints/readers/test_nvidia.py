from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from graftgan.checkpoints import readers
from graftgan.checkpoints.content import open_content
from graftgan.checkpoints.imported import Imported
from graftgan.checkpoints.readers import nvidia
from graftgan.checkpoints.store import NETWORKS, load_network
from graftgan.checkpoints.unpickle import Stub
from graftgan.errors import CheckpointError
from graftgan.gans.base import build, parameter_count
from graftgan.gans.stylegan2 import StyleGAN2Spec, build_networks
from graftgan.gans.stylegan3 import StyleGAN3Spec
from graftgan.gans.stylegan3 import build_networks as build_stylegan3
from tests.checkpoints.files import (
    TINY,
    State,
    discriminator_filters,
    g_kwargs,
    generator_filters,
    module,
    nvidia_modules,
    nvidia_pickle,
    part,
    put,
    random_tensors,
    saved,
)
from tests.gans.stylegan2 import reference

TENSORS = random_tensors()
CLASSES = replace(TINY, classes=3)


def imported(path: Path, data: bytes) -> Imported:
    """Read a file by whichever reader takes it."""
    content = open_content(put(path / "network", data))
    assert nvidia.matches(content)
    return readers.read(content)


def refusal(path: Path, data: bytes) -> str:
    with pytest.raises(CheckpointError) as error:
        imported(path, data)
    assert error.value.exit_code == 5
    return str(error.value)


def equal(found: State, expected: State) -> bool:
    return set(found) == set(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("flat", [False, True])
def test_all_networks_are_read_bit_by_bit(tmp_path: Path, protocol: int, flat: bool) -> None:
    result = imported(tmp_path, nvidia_pickle(TENSORS, protocol=protocol, flat=flat))
    assert result.format == "nvidia"
    assert result.spec == TINY
    assert equal(result.tensors, TENSORS)
    assert (result.made, result.absent) == ({}, ())


def test_what_is_read_loads_strictly(tmp_path: Path) -> None:
    result = imported(tmp_path, nvidia_pickle(TENSORS))
    gan = build(result.spec, seed=0)
    for network in NETWORKS:
        load_network(getattr(gan, network), part(result.tensors, network), tmp_path)


def test_every_tensor_of_the_file_is_accounted_for(tmp_path: Path) -> None:
    result = imported(tmp_path, nvidia_pickle(TENSORS))
    filters = {f"{name}.{key}" for name in ("G", "G_ema") for key in generator_filters(TINY)}
    filters |= {f"D.{key}" for key in discriminator_filters(TINY)}
    assert set(result.skipped) - {"training_set_kwargs"} == filters
    assert all("[1, 3, 3, 1]" in result.skipped[name] for name in filters)
    assert any("faces.zip" in note for note in result.notes)
    assert not any("/home" in note for note in result.notes)
    assert any("conv_clamp" in note for note in result.notes)


def test_a_conditional_network(tmp_path: Path) -> None:
    tensors = random_tensors(CLASSES, seed=1)
    result = imported(tmp_path, nvidia_pickle(tensors, CLASSES))
    assert result.spec == CLASSES
    assert equal(result.tensors, tensors)


@pytest.mark.parametrize("layers", [1, 2, 8])
def test_the_number_of_mapping_layers_comes_from_the_file(tmp_path: Path, layers: int) -> None:
    spec = replace(TINY, mapping_layers=layers)
    tensors = random_tensors(spec)
    result = imported(tmp_path, nvidia_pickle(tensors, spec))
    assert result.spec.mapping_layers == layers
    assert equal(result.tensors, tensors)


def test_left_out_arguments_have_the_public_defaults(tmp_path: Path) -> None:
    spec = replace(TINY, mapping_layers=8)
    result = imported(
        tmp_path, nvidia_pickle(random_tensors(spec), spec, mapping_kwargs={}, d_epilogue_kwargs={})
    )
    assert (result.spec.mapping_layers, result.spec.mbstd_group) == (8, 4)


def test_arguments_that_contradict_the_tensors_are_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, nvidia_pickle(TENSORS, mapping_kwargs={"num_layers": 2}))
    assert "in part only" in message and "mapping.fc2" in message
    message = refusal(tmp_path, nvidia_pickle(TENSORS, mapping_kwargs={"num_layers": 4}))
    assert "in part only" in message and "mapping.fc3" in message


def test_the_group_of_the_discriminator_is_taken_over(tmp_path: Path) -> None:
    spec = replace(TINY, mbstd_group=8)
    assert imported(tmp_path, nvidia_pickle(TENSORS, spec)).spec.mbstd_group == 8


def test_frozen_layers_of_the_discriminator_are_found_among_buffers(tmp_path: Path) -> None:
    data = nvidia_pickle(TENSORS, frozen=("b32.", "b16."), d_block_kwargs={"freeze_layers": 8})
    tree = open_content(put(tmp_path / "frozen", data)).tree
    block = tree["D"].state["_modules"]["b32"].state["_modules"]["conv0"]
    assert "weight" in block.state["_buffers"]
    assert equal(imported(tmp_path, data).tensors, TENSORS)


def test_buffers_that_are_not_kept_are_left_out() -> None:
    with nvidia_modules():
        top = module({"a": torch.ones(1), "w_avg": torch.ones(1)}, "Generator", {})
    state = top.state | {"_non_persistent_buffers_set": {"w_avg"}}
    assert set(nvidia.flatten(Stub("Generator", state, "x"))) == {"a"}


def test_the_order_of_tensors_is_that_of_the_modules(tmp_path: Path) -> None:
    tree = open_content(put(tmp_path / "n", nvidia_pickle(TENSORS))).tree
    names = [name for name in nvidia.flatten(tree["D"]) if name.endswith("weight")]
    expected = [name for name in part(TENSORS, "discriminator") if name.endswith("weight")]
    assert names == expected


def test_arguments_are_returned_flat_and_nested(tmp_path: Path) -> None:
    for flat in (False, True):
        tree = open_content(put(tmp_path / "n", nvidia_pickle(TENSORS, flat=flat))).tree
        kwargs = nvidia.init_kwargs(tree["G_ema"])
        assert kwargs["channel_base"] == 128
        assert kwargs["mapping_kwargs"] == {"num_layers": 3}
        assert "synthesis_kwargs" not in kwargs


def test_an_average_alone_stands_for_both_generators(tmp_path: Path) -> None:
    result = imported(tmp_path, nvidia_pickle(TENSORS, networks=("G_ema",)))
    assert result.absent == ("discriminator",)
    assert "The file holds no generator; it is a copy of generator_ema." in result.notes
    assert equal(part(result.tensors, "generator"), part(TENSORS, "generator_ema"))
    pairs = zip(
        part(result.tensors, "generator").values(),
        part(result.tensors, "generator_ema").values(),
        strict=True,
    )
    assert all(a.data_ptr() != b.data_ptr() for a, b in pairs)


def test_a_generator_without_average_stands_for_both(tmp_path: Path) -> None:
    result = imported(tmp_path, nvidia_pickle(TENSORS, networks=("G", "D")))
    assert result.absent == ()
    assert "The file holds no generator_ema; it is a copy of generator." in result.notes
    assert equal(part(result.tensors, "generator_ema"), part(TENSORS, "generator"))


def test_a_network_pickled_by_itself(tmp_path: Path) -> None:
    with nvidia_modules():
        state = part(TENSORS, "generator_ema") | generator_filters(TINY)
        data = pickle.dumps(module(state, "Generator", g_kwargs(TINY)), 4)
    assert equal(part(imported(tmp_path, data).tensors, "generator_ema"), part(TENSORS, "generator_ema"))


def test_half_precision_is_widened(tmp_path: Path) -> None:
    halves = {name: t.half() for name, t in TENSORS.items()}
    result = imported(tmp_path, nvidia_pickle(halves))
    assert equal(result.tensors, {name: t.float() for name, t in halves.items()})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architecture": "orig"}, "architecture = orig"),
        ({"activation": "relu"}, "activation = relu"),
        ({"synthesis_kwargs": {"resample_filter": [1, 2, 1]}}, "resample_filter"),
        ({"mapping_kwargs": {"num_layers": 3, "lr_multiplier": 1}}, "lr_multiplier = 1"),
        ({"use_noise": False}, "use_noise"),
        ({"novelty": 1}, "novelty = 1"),
        ({"d_architecture": "orig"}, "D was built with architecture = orig"),
        ({"d_epilogue_kwargs": {"mbstd_num_channels": 2}}, "mbstd_num_channels"),
        ({"d_epilogue_kwargs": {"mbstd_group_size": None}}, "mbstd_group is None"),
        ({"d_channel_base": 256}, "D has channel_base 256, G has 128"),
        ({"img_resolution": 48}, "resolution is 48"),
        ({"img_resolution": 64}, "in part only"),
        ({"img_channels": "3"}, "channels is"),
        ({"z_dim": 9}, "in part only"),
        ({"z_dim": 1 << 100}, "no network can be built"),
        ({"mapping_kwargs": {"num_layers": 10**9}}, "num_layers 1000000000"),
        ({"d_mapping_kwargs": {"num_layers": 10**9}}, "num_layers 1000000000"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_networks_of_another_kind_are_refused_by_the_argument(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    assert says in refusal(tmp_path, nvidia_pickle(TENSORS, **changes))


def test_a_generator_that_does_not_tell_its_size_is_refused(tmp_path: Path) -> None:
    with nvidia_modules():
        kwargs = g_kwargs(TINY)
        del kwargs["img_resolution"]
        data = pickle.dumps({"G_ema": module(part(TENSORS, "generator"), "Generator", kwargs)}, 4)
    assert "does not tell img_resolution" in refusal(tmp_path, data)


def test_another_filter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.checkpoints.files.KERNEL", torch.ones(4, 4) / 16)
    assert "resample_filter is not the filter" in refusal(tmp_path, nvidia_pickle(TENSORS))


@pytest.mark.parametrize("name", ["generator_ema.mapping.w_avg", "discriminator.b8.skip.weight"])
def test_a_missing_tensor_is_named(tmp_path: Path, name: str) -> None:
    rest = {key: t for key, t in TENSORS.items() if key != name}
    assert f"1 missing ({name})" in refusal(tmp_path, nvidia_pickle(rest))


def test_a_surplus_tensor_is_named(tmp_path: Path) -> None:
    more = TENSORS | {"generator_ema.synthesis.b8.skip.weight": torch.ones(1)}
    assert "1 unexpected (generator_ema.synthesis.b8.skip.weight)" in refusal(tmp_path, nvidia_pickle(more))


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    name = "generator_ema.synthesis.b8.conv0.noise_const"
    odd = TENSORS | {name: TENSORS[name].to(torch.int32)}
    assert "torch.int32" in refusal(tmp_path, nvidia_pickle(odd))


def test_a_discriminator_alone_is_refused(tmp_path: Path) -> None:
    assert "no StyleGAN2 generator" in refusal(tmp_path, nvidia_pickle(TENSORS, networks=("D",)))


def test_a_module_used_twice_is_refused() -> None:
    child = Stub("Layer", {"_parameters": {"w": torch.ones(1)}}, "x")
    with pytest.raises(CheckpointError, match="occurs twice"):
        nvidia.flatten(Stub("Top", {"_modules": {"a": child, "b": child}}, "x"))


@pytest.mark.parametrize(
    "state",
    [
        {"_parameters": [1]},
        {"_parameters": {"w": "text"}},
        {"_modules": {"a": {"no": "stub"}}},
        {"_buffers": 3},
    ],
)
def test_a_module_of_odd_parts_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        nvidia.flatten(Stub("Top", state, "x"))


def nested_state(tensors: State) -> dict[str, State]:
    return {theirs: part(tensors, ours) for theirs, ours in nvidia.NETWORKS.items()}


@pytest.mark.parametrize("spec", [TINY, CLASSES], ids=["plain", "classes"])
def test_state_dicts_are_read_by_their_shapes(tmp_path: Path, spec: StyleGAN2Spec) -> None:
    tensors = random_tensors(spec)
    only_g = part(tensors, "generator_ema") | generator_filters(spec)
    parallel = {f"module.{name}": t for name, t in only_g.items()}
    for tree in (only_g, parallel, {"G_ema": only_g}, {"G_ema": parallel, "cur_nimg": 7}):
        result = imported(tmp_path, saved(tree))
        assert replace(result.spec, label_layers=2) == spec
        assert equal(part(result.tensors, "generator_ema"), part(tensors, "generator_ema"))
        assert any("sizes were read off the shapes" in note for note in result.notes)


def test_state_dicts_in_one_safetensors_file(tmp_path: Path) -> None:
    flat = {f"{net}.{name}": t for net, state in nested_state(TENSORS).items() for name, t in state.items()}
    save_file(flat, tmp_path / "x.safetensors")
    result = readers.read(open_content(tmp_path / "x.safetensors"))
    assert equal(result.tensors, TENSORS)


def test_widths_outside_of_the_rule_are_refused(tmp_path: Path) -> None:
    odd = part(random_tensors(), "generator_ema") | {"synthesis.b16.conv1.bias": torch.zeros(5)}
    assert "widths do not follow" in refusal(tmp_path, saved({"G_ema": odd}))


def test_images_are_those_of_the_published_formula(tmp_path: Path) -> None:
    result = imported(tmp_path, nvidia_pickle(TENSORS))
    gan = build(result.spec, seed=0)
    load_network(gan.generator_ema, part(result.tensors, "generator_ema"), tmp_path)
    load_network(gan.discriminator, part(result.tensors, "discriminator"), tmp_path)
    state = {name: t.double() for name, t in part(TENSORS, "generator_ema").items()}
    z = torch.randn(2, TINY.z_dim, generator=torch.Generator().manual_seed(5))
    w = reference.mapping(z.double(), state, TINY.mapping_layers)
    with torch.no_grad():
        images = gan.generator_ema(z, noise_mode="const")
        logits = gan.discriminator(images)
    for image, row in zip(images, w, strict=True):
        close(image, reference.synthesis(row.expand(TINY.num_ws, -1), state, TINY.resolution))
    critic = {name: t.double() for name, t in part(TENSORS, "discriminator").items()}
    close(logits, reference.discriminator(images.double(), critic, TINY))


def test_a_stylegan3_is_handed_on(tmp_path: Path) -> None:
    spec = StyleGAN3Spec(resolution=32, z_dim=4, w_dim=4, channel_base=64, channel_max=4)
    state = build_stylegan3(spec)[0].state_dict()
    kwargs = {
        "z_dim": 4, "w_dim": 4, "c_dim": 0, "img_resolution": 32, "img_channels": 3, "channel_base": 64,
        "channel_max": 4, "mapping_kwargs": {"num_layers": spec.mapping_layers},
    }  # fmt: skip
    with nvidia_modules():
        data = pickle.dumps({"G_ema": module(state, "Generator", kwargs), "D": None}, 4)
    result = imported(tmp_path, data)
    assert result.spec == spec
    assert equal(part(result.tensors, "generator_ema"), state)
    assert result.absent == ("discriminator",)
    with nvidia_modules():
        many = pickle.dumps({"G_ema": module(state, "Generator", kwargs | {"num_layers": 10**9})}, 4)
    assert "num_layers 1000000000" in refusal(tmp_path, many)


def close(found: Tensor, expected: Tensor) -> None:
    """Equal within 1e-5 of the largest value."""
    assert float((found.double() - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("resolution", "base", "g", "d"),
    [(256, 16384, 24_767_458, 24_001_089), (256, 32768, 30_034_338, 28_864_129)],
)
def test_counts_at_full_size_are_the_published_ones(resolution: int, base: int, g: int, d: int) -> None:
    spec = StyleGAN2Spec(resolution=resolution, channel_base=base)
    with torch.device("meta"):
        generator, discriminator = build_networks(spec)
    assert parameter_count(generator) == g
    assert parameter_count(discriminator) == d
    assert len(generator.state_dict()) + len(generator_filters(spec)) == 144
    assert len(discriminator.state_dict()) + len(discriminator_filters(spec)) == 64
