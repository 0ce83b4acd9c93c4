from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graftgan.checkpoints import readers
from graftgan.checkpoints.content import open_content
from graftgan.checkpoints.imported import Content, Imported
from graftgan.checkpoints.readers import rosinality
from graftgan.checkpoints.store import NETWORKS, load_network
from graftgan.errors import CheckpointError
from graftgan.gans.base import build
from graftgan.gans.stylegan2 import StyleGAN2Spec, build_networks
from tests.checkpoints.files import (
    TINY,
    State,
    part,
    put,
    random_tensors,
    rosinality_state,
    rosinality_tree,
    saved,
)
from tests.gans.stylegan2.reference import lrelu, minibatch_stddev, modulated, unit, upfirdn

TENSORS = random_tensors()
AVERAGE = TENSORS["generator_ema.mapping.w_avg"]


def converted(tree: dict[str, Any]) -> Imported:
    content = Content(Path("some/file.pt"), "torch", tree)
    assert rosinality.matches(content)
    return rosinality.read(content)


def refusal(tree: dict[str, Any]) -> str:
    with pytest.raises(CheckpointError, match=r"some/file\.pt: ") as error:
        converted(tree)
    return str(error.value)


def official() -> dict[str, Any]:
    """A converted checkpoint as it is published: an average, networks, the mean of w."""
    return rosinality_tree(TENSORS) | {"latent_avg": AVERAGE.clone()}


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_is_read_bit_by_bit(tmp_path: Path, legacy: bool) -> None:
    result = readers.read(open_content(put(tmp_path / "010000.pt", saved(official(), legacy))))
    assert result.format == "rosinality"
    assert result.spec == replace(TINY, label_layers=8)
    assert set(result.tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        expected = AVERAGE if name.endswith("w_avg") else tensor
        assert torch.equal(result.tensors[name], expected), name
    assert (result.made, result.absent, result.notes) == ({}, (), ())


def test_what_is_read_loads_strictly() -> None:
    result = converted(official())
    gan = build(result.spec, seed=0)
    for network in NETWORKS:
        load_network(getattr(gan, network), part(result.tensors, network), Path("x"))


def test_every_entry_of_the_file_is_accounted_for() -> None:
    result = converted(official())
    assert "optimiser" in result.skipped["g_optim"]
    assert {"args", "ada_aug_p", "latent_avg"} <= set(result.skipped)
    kernels = [name for name in result.skipped if name.endswith("kernel")]
    assert len(kernels) == 2 * 6 + 6


def test_a_missing_mean_of_w_is_computed() -> None:
    tree = rosinality_tree(TENSORS)
    result = converted(tree)
    name = "generator_ema.mapping.w_avg"
    assert "4096 latents" in result.made[name]
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(4096, TINY.z_dim, generator=rng)
    expected = style(z.double(), doubled(tree["g_ema"])).mean(0)
    assert torch.allclose(result.tensors[name].double(), expected, atol=1e-5)
    assert not torch.equal(result.tensors[name], result.tensors["generator.mapping.w_avg"])
    assert torch.equal(converted(tree).tensors[name], result.tensors[name])


def test_noise_that_old_files_lack_is_drawn_and_said() -> None:
    tree = official()
    tree["g_ema"] = {name: t for name, t in tree["g_ema"].items() if not name.startswith("noises.")}
    first, second = converted(tree), converted(tree)
    made = {name for name in TENSORS if name.startswith("generator_ema.") and name.endswith("noise_const")}
    assert set(first.made) == made
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in made)
    deviations = torch.cat([first.tensors[name].flatten() for name in made]).std()
    assert 0.9 < float(deviations) < 1.1


def test_an_average_alone_stands_for_both_generators() -> None:
    result = converted({"g_ema": official()["g_ema"], "latent_avg": AVERAGE})
    assert result.absent == ("discriminator",)
    assert result.notes == ("The file holds no generator; it is a copy of generator_ema.",)
    for name, tensor in part(result.tensors, "generator").items():
        assert torch.equal(tensor, TENSORS[f"generator_ema.{name}"])


def test_a_prefix_of_parallel_training_is_stripped() -> None:
    tree = official()
    for name in ("g", "d", "g_ema"):
        tree[name] = {f"module.{key}": t for key, t in tree[name].items()}
    assert torch.equal(
        converted(tree).tensors["discriminator.b4.out.weight"], TENSORS["discriminator.b4.out.weight"]
    )


@pytest.mark.parametrize(("multiplier", "base"), [(1, 16384), (2, 32768)])
@pytest.mark.parametrize("resolution", [256, 1024])
def test_the_channel_multiplier_is_told_by_the_widths(multiplier: int, base: int, resolution: int) -> None:
    table = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256 * multiplier, 128: 128 * multiplier,
             256: 64 * multiplier, 512: 32 * multiplier, 1024: 16 * multiplier}  # fmt: skip
    state: State = {
        "style.1.weight": torch.empty(512, 512, device="meta"),
        "to_rgb1.bias": torch.empty(1, 3, 1, 1, device="meta"),
        "conv1.conv.weight": torch.empty(1, 512, 512, 3, 3, device="meta"),
    }
    for j, side in enumerate([r for r in table if 4 < r <= resolution]):
        state[f"convs.{2 * j}.conv.weight"] = torch.empty(1, table[side], 1, 3, 3, device="meta")
        state[f"to_rgbs.{j}.bias"] = torch.empty(1, 3, 1, 1, device="meta")
    spec = rosinality._spec(Path("x"), state)
    assert (spec.resolution, spec.channel_base, spec.channel_max, spec.mapping_layers) == (
        resolution,
        base,
        512,
        1,
    )


@pytest.mark.parametrize(
    ("resolution", "base", "g", "d"),
    [(256, 32768, 30_034_338, 28_864_129), (1024, 32768, 30_370_060, 29_012_513),
     (256, 16384, 24_767_458, 24_001_089), (1024, 16384, 24_900_764, 24_038_161)],
)  # fmt: skip
def test_counts_at_full_size_are_the_published_ones(resolution: int, base: int, g: int, d: int) -> None:
    spec = StyleGAN2Spec(resolution=resolution, channel_base=base)
    with torch.device("meta"):
        generator, discriminator = build_networks(spec)
    state = generator.state_dict()
    pairs = list(rosinality.generator_pairs(spec))
    assert {pair.ours for pair in pairs} == set(state) - {"mapping.w_avg"}
    assert len({pair.theirs for pair in pairs}) == len(pairs)
    assert sum(state[p.ours].numel() for p in pairs if not p.theirs.startswith("noises.")) == g
    critic = discriminator.state_dict()
    names = [pair.ours for pair in rosinality.discriminator_pairs(spec)]
    assert sorted(names) == sorted(critic)
    assert sum(critic[name].numel() for name in names) == d


def test_a_missing_tensor_is_named() -> None:
    tree = official()
    del tree["d"]["convs.2.skip.1.weight"]
    assert "1 missing (discriminator.b16.skip.weight)" in refusal(tree)
    tree = official()
    del tree["g_ema"]["convs.1.activate.bias"]
    assert "1 missing (generator_ema.synthesis.b8.conv1.bias)" in refusal(tree)


def test_a_tensor_of_another_layout_is_named() -> None:
    tree = official()
    tree["g"]["iwt.ll"] = torch.ones(2, 2)
    assert "iwt.ll is no tensor of this layout" in refusal(tree)


def test_a_mapping_network_with_a_hole_is_refused() -> None:
    tree = rosinality_tree(TENSORS)
    del tree["g_ema"]["style.2.weight"]
    assert "style" in refusal(tree)


def test_a_tensor_of_another_shape_is_named() -> None:
    tree = official()
    tree["g"]["conv1.conv.weight"] = tree["g"]["conv1.conv.weight"].expand(2, -1, -1, -1, -1)
    assert "conv1.conv.weight has shape [2, 8, 8, 3, 3]" in refusal(tree)
    tree = official()
    tree["g"]["conv1.noise.weight"] = torch.zeros(())
    assert "conv1.noise.weight has shape []" in refusal(tree)


def test_another_filter_is_refused() -> None:
    tree = official()
    tree["g_ema"]["convs.0.conv.blur.kernel"] = torch.ones(4, 4) / 4
    assert "convs.0.conv.blur.kernel is not the filter" in refusal(tree)
    tree = official()
    tree["d"]["convs.1.conv2.0.kernel"] *= 4
    assert "conv2.0.kernel is not the filter" in refusal(tree)


def test_a_generator_without_sizes_is_refused() -> None:
    assert "sizes cannot be told" in refusal({"g_ema": {"conv1.conv.weight": torch.ones(1, 8, 8, 3, 3)}})
    tree = official()
    tree["g_ema"] = {n: t for n, t in tree["g_ema"].items() if not n.startswith("to_rgbs.1")}
    assert "resolution is 8" in refusal(tree)


@pytest.mark.parametrize("tree", [{}, {"g_ema": 3}, {"g_ema": {"a": torch.ones(1)}}, [1], None, {"g": {}}])
def test_other_contents_are_left_to_others(tree: Any) -> None:
    assert not rosinality.matches(Content(Path("x"), "torch", tree))


def doubled(state: State) -> State:
    return {name: tensor.double() for name, tensor in state.items()}


def style(z: Tensor, state: State) -> Tensor:
    """The published mapping network, in the file's names."""
    x = unit(z)
    for i in range(1, 1 + sum(name.startswith("style.") for name in state) // 2):
        weight, bias = state[f"style.{i}.weight"], state[f"style.{i}.bias"]
        x = lrelu(x @ (weight * 0.01 / weight.shape[1] ** 0.5).T + bias * 0.01)
    return x


def styled(x: Tensor, w: Tensor, state: State, name: str, noise: str, up: bool) -> Tensor:
    """A published styled convolution on one image [C, H, W], in the file's names."""
    modulation = state[f"{name}.conv.modulation.weight"]
    s = modulation @ w / modulation.shape[1] ** 0.5 + state[f"{name}.conv.modulation.bias"]
    weight = state[f"{name}.conv.weight"][0]
    x = modulated(x, s, weight / weight[0].numel() ** 0.5, up)
    x = x + state[f"{name}.noise.weight"] * state[noise][0, 0]
    return lrelu(x + state[f"{name}.activate.bias"][:, None, None])


def coloured(x: Tensor, w: Tensor, state: State, name: str) -> Tensor:
    modulation = state[f"{name}.conv.modulation.weight"]
    s = modulation @ w / modulation.shape[1] ** 0.5 + state[f"{name}.conv.modulation.bias"]
    weight = state[f"{name}.conv.weight"][0]
    return modulated(x, s, weight / weight.shape[1] ** 0.5, False, False) + state[f"{name}.bias"][0]


def generated(z: Tensor, state: State) -> Tensor:
    """The published generator on one latent [z_dim], in the file's names."""
    w = style(z[None], state)[0]
    x = styled(state["input.input"][0], w, state, "conv1", "noises.noise_0", False)
    image = coloured(x, w, state, "to_rgb1")
    j = 0
    while f"to_rgbs.{j}.bias" in state:
        x = styled(x, w, state, f"convs.{2 * j}", f"noises.noise_{2 * j + 1}", True)
        x = styled(x, w, state, f"convs.{2 * j + 1}", f"noises.noise_{2 * j + 2}", False)
        image = torch.from_numpy(upfirdn(image.numpy(), up=2, down=1, pad=(2, 1), gain=4.0))
        image = image + coloured(x, w, state, f"to_rgbs.{j}")
        j += 1
    return image


def scaled(x: Tensor, weight: Tensor, **settings: int) -> Tensor:
    return F.conv2d(x, weight / weight[0].numel() ** 0.5, **settings)


def maps(bias: Tensor) -> Tensor:
    return bias[:, None, None]


def judged(images: Tensor, state: State) -> Tensor:
    """The published discriminator, in the file's names."""
    x = lrelu(scaled(images, state["convs.0.0.weight"]) + maps(state["convs.0.1.bias"]))
    i = 1
    while f"convs.{i}.skip.1.weight" in state:
        p = f"convs.{i}"
        y = lrelu(
            scaled(x, state[f"{p}.conv1.0.weight"], padding=1) + state[f"{p}.conv1.1.bias"][:, None, None]
        )
        y = torch.from_numpy(upfirdn(y.numpy(), 1, 1, (2, 2)))
        y = lrelu(
            scaled(y, state[f"{p}.conv2.1.weight"], stride=2) + state[f"{p}.conv2.2.bias"][:, None, None]
        )
        short = torch.from_numpy(upfirdn(x.numpy(), 1, 1, (1, 1)))
        x = (y + scaled(short, state[f"{p}.skip.1.weight"], stride=2)) / 2**0.5
        i += 1
    x = minibatch_stddev(x, min(4, x.shape[0]))
    x = lrelu(scaled(x, state["final_conv.0.weight"], padding=1) + maps(state["final_conv.1.bias"]))
    for layer in (0, 1):
        weight = state[f"final_linear.{layer}.weight"]
        x = x.flatten(1) @ (weight / weight.shape[1] ** 0.5).T + state[f"final_linear.{layer}.bias"]
        x = lrelu(x) if layer == 0 else x
    return x


def test_images_and_logits_are_those_of_the_published_formula() -> None:
    tree = official()
    result = converted(tree)
    gan = build(result.spec, seed=0)
    load_network(gan.generator_ema, part(result.tensors, "generator_ema"), Path("x"))
    load_network(gan.discriminator, part(result.tensors, "discriminator"), Path("x"))
    z = torch.randn(2, TINY.z_dim, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        images = gan.generator_ema(z, noise_mode="const")
        logits = gan.discriminator(images)
    state = doubled(tree["g_ema"])
    for image, latent in zip(images, z, strict=True):
        close(image, generated(latent.double(), state))
    close(logits, judged(images.double(), doubled(tree["d"])))


def close(found: Tensor, expected: Tensor) -> None:
    """Equal within 1e-5 of the largest value."""
    assert float((found.double() - expected).abs().max() / expected.abs().max()) < 1e-5


def test_the_state_in_the_tests_has_the_published_shapes() -> None:
    spec = StyleGAN2Spec(resolution=256)
    with torch.device("meta"):
        generator, _ = build_networks(spec)
    state = rosinality_state(generator.state_dict(), spec)
    assert state["input.input"].shape == (1, 512, 4, 4)
    assert state["conv1.conv.weight"].shape == (1, 512, 512, 3, 3)
    assert state["to_rgb1.conv.weight"].shape == (1, 3, 512, 1, 1)
    assert state["to_rgb1.bias"].shape == (1, 3, 1, 1)
    assert state["conv1.noise.weight"].shape == (1,)
    assert state["noises.noise_2"].shape == (1, 1, 8, 8)
    assert state["noises.noise_12"].shape == (1, 1, 256, 256)
