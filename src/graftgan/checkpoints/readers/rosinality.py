"""Reads and names the tensors of rosinality's stylegan2-pytorch: `g`, `d`, `g_ema`, `latent_avg`.

Every tensor is one of ours under another name, with dimensions of length 1 around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graftgan.checkpoints.imported import Content, Imported, refuse
from graftgan.checkpoints.readers.strict import as_float32, check_whole, is_state, spec_of, unprefixed
from graftgan.checkpoints.readers.stylegan2_layout import check_filter, mean_w, width_rule
from graftgan.gans.stylegan2.spec import StyleGAN2Spec

GENERATORS = {"g_ema": "generator_ema", "g": "generator"}
MARK = "conv1.conv.weight"
UP_GAIN = 4.0
KERNEL = ".kernel"
OTHERS = {
    "g_optim": "state of the optimiser", "d_optim": "state of the optimiser",
    "args": "arguments of the training script", "ada_aug_p": "strength of its augmentation",
    "latent_avg": "read into mapping.w_avg",
}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """One tensor under both names; theirs has `before` and `after` dimensions of length 1 around ours."""

    ours: str
    theirs: str
    before: int = 0
    after: int = 0

    def wrap(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape in the file of a tensor of ours."""
        return (1,) * self.before + tuple(shape) + (1,) * self.after


def _layer(ours: str, theirs: str, noise: int) -> Iterator[Pair]:
    yield Pair(f"{ours}.weight", f"{theirs}.conv.weight", before=1)
    yield Pair(f"{ours}.affine.weight", f"{theirs}.conv.modulation.weight")
    yield Pair(f"{ours}.affine.bias", f"{theirs}.conv.modulation.bias")
    yield Pair(f"{ours}.noise_strength", f"{theirs}.noise.weight", before=1)
    yield Pair(f"{ours}.bias", f"{theirs}.activate.bias")
    yield Pair(f"{ours}.noise_const", f"noises.noise_{noise}", before=2)


def _to_rgb(ours: str, theirs: str) -> Iterator[Pair]:
    yield Pair(f"{ours}.weight", f"{theirs}.conv.weight", before=1)
    yield Pair(f"{ours}.affine.weight", f"{theirs}.conv.modulation.weight")
    yield Pair(f"{ours}.affine.bias", f"{theirs}.conv.modulation.bias")
    yield Pair(f"{ours}.bias", f"{theirs}.bias", before=1, after=2)


def generator_pairs(spec: StyleGAN2Spec) -> Iterator[Pair]:
    """Yield all tensors of an unconditional generator but `w_avg`."""
    for i in range(spec.mapping_layers):
        for part in ("weight", "bias"):
            yield Pair(f"mapping.fc{i}.{part}", f"style.{i + 1}.{part}")
    yield Pair("synthesis.b4.const", "input.input", before=1)
    yield from _layer("synthesis.b4.conv1", "conv1", 0)
    yield from _to_rgb("synthesis.b4.torgb", "to_rgb1")
    for j, resolution in enumerate(spec.block_resolutions[1:]):
        block = f"synthesis.b{resolution}"
        yield from _layer(f"{block}.conv0", f"convs.{2 * j}", 2 * j + 1)
        yield from _layer(f"{block}.conv1", f"convs.{2 * j + 1}", 2 * j + 2)
        yield from _to_rgb(f"{block}.torgb", f"to_rgbs.{j}")


def discriminator_pairs(spec: StyleGAN2Spec) -> Iterator[Pair]:
    """Yield all tensors of an unconditional discriminator."""
    top = f"b{spec.resolution}.fromrgb"
    yield Pair(f"{top}.weight", "convs.0.0.weight")
    yield Pair(f"{top}.bias", "convs.0.1.bias")
    for i, resolution in enumerate(reversed(spec.block_resolutions[1:]), 1):
        block = f"b{resolution}"
        yield Pair(f"{block}.conv0.weight", f"convs.{i}.conv1.0.weight")
        yield Pair(f"{block}.conv0.bias", f"convs.{i}.conv1.1.bias")
        yield Pair(f"{block}.conv1.weight", f"convs.{i}.conv2.1.weight")
        yield Pair(f"{block}.conv1.bias", f"convs.{i}.conv2.2.bias")
        yield Pair(f"{block}.skip.weight", f"convs.{i}.skip.1.weight")
    yield Pair("b4.conv.weight", "final_conv.0.weight")
    yield Pair("b4.conv.bias", "final_conv.1.bias")
    for ours, theirs in (("fc", 0), ("out", 1)):
        for part in ("weight", "bias"):
            yield Pair(f"b4.{ours}.{part}", f"final_linear.{theirs}.{part}")


def kernel_names(spec: StyleGAN2Spec) -> tuple[list[str], list[str]]:
    """Return the names of the fixed filters in the generator (of sum 4) and the discriminator (of sum 1)."""
    ups = len(spec.block_resolutions) - 1
    generator = [f"convs.{2 * j}.conv.blur.kernel" for j in range(ups)]
    generator += [f"to_rgbs.{j}.upsample.kernel" for j in range(ups)]
    return generator, [f"convs.{i + 1}.{part}.0.kernel" for i in range(ups) for part in ("conv2", "skip")]


def matches(content: Content) -> bool:
    """Tell whether the content has a generator in this layout."""
    tree = content.tree
    return isinstance(tree, Mapping) and any(
        is_state(tree.get(name)) and MARK in unprefixed(tree[name]) for name in GENERATORS
    )


def read(content: Content) -> Imported:
    """Convert all networks.

    Raises:
        CheckpointError: The networks are of another kind, or would load in part only.
    """
    path, tree = content.path, content.tree
    states = {
        ours: unprefixed(tree[theirs]) for theirs, ours in GENERATORS.items() if is_state(tree.get(theirs))
    }
    spec = _spec(path, states.get("generator_ema") or states["generator"])
    conversion = _Conversion(path)
    for network, state in states.items():
        conversion.take(network, state, list(generator_pairs(spec)), UP_GAIN)
        conversion.add_noise(network, spec)
        conversion.add_w_avg(network, spec, tree.get("latent_avg"))
    if has_critic := is_state(tree.get("d")):
        conversion.take("discriminator", unprefixed(tree["d"]), list(discriminator_pairs(spec)), 1.0)
    notes = [] if len(states) == 2 else [conversion.copy_generator(*states)]
    absent = () if has_critic else ("discriminator",)
    check_whole(path, spec, conversion.tensors, absent)
    others = {
        str(name): OTHERS.get(str(name), "no network")
        for name in tree
        if name not in GENERATORS and name != "d"
    }
    return Imported(
        "rosinality",
        spec,
        conversion.tensors,
        conversion.skipped | others,
        conversion.made,
        absent,
        tuple(notes),
    )


def _spec(path: Path, state: Mapping[str, Tensor]) -> StyleGAN2Spec:
    """Return the spec that a generator's shapes tell; `channel_multiplier` m is `channel_base` 16384 m."""
    layers = ups = 0
    while f"style.{layers + 1}.weight" in state:
        layers += 1
    while f"to_rgbs.{ups}.bias" in state:
        ups += 1
    try:
        widths = {4: state["conv1.conv.weight"].shape[1]}
        widths |= {8 << j: state[f"convs.{2 * j}.conv.weight"].shape[1] for j in range(ups)}
        channels = state["to_rgb1.bias"].shape[1]
        w_dim, z_dim = state["style.1.weight"].shape
    except (KeyError, IndexError, ValueError) as error:
        raise refuse(path, f"its sizes cannot be told: {error}", dict(state)) from None
    base, most = width_rule(path, widths)
    sizes: dict[str, Any] = {
        "resolution": 4 << ups, "channels": channels, "z_dim": z_dim, "w_dim": w_dim,
        "mapping_layers": layers, "channel_base": base, "channel_max": most,
    }  # fmt: skip
    spec: StyleGAN2Spec = spec_of(path, StyleGAN2Spec, sizes)
    return spec


class _Conversion:
    """Tensors of ours taken from a file, with the account of what was left out and made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors: dict[str, Tensor] = {}
        self.skipped: dict[str, str] = {}
        self.made: dict[str, str] = {}

    def take(self, network: str, state: Mapping[str, Tensor], pairs: list[Pair], gain: float) -> None:
        """Rename a network's tensors; what has no name of ours must be a filter of sum `gain`."""
        ours = {pair.theirs: pair for pair in pairs}
        for name, tensor in state.items():
            pair = ours.get(name)
            if pair is not None:
                wrapped = tuple(tensor.shape)
                inner = wrapped[pair.before : len(wrapped) - pair.after]
                if pair.wrap(inner) != wrapped:
                    raise refuse(self.path, f"{name} has shape {list(wrapped)}")
                converted = as_float32(self.path, name, tensor)
                self.tensors[f"{network}.{pair.ours}"] = converted.reshape(inner)
            elif name.endswith(KERNEL):
                self.skipped[f"{network}: {name}"] = check_filter(self.path, name, tensor, gain)
            else:
                raise refuse(self.path, f"{name} is no tensor of this layout")

    def add_noise(self, network: str, spec: StyleGAN2Spec) -> None:
        """Draw the constant noise that files from before it was stored lack."""
        rng = torch.Generator().manual_seed(0)
        for resolution in spec.block_resolutions:
            for layer in ("conv0", "conv1")[resolution == 4 :]:
                name = f"{network}.synthesis.b{resolution}.{layer}.noise_const"
                drawn = torch.randn(resolution, resolution, generator=rng)
                if name not in self.tensors:
                    self.tensors[name] = drawn
                    self.made[name] = "drawn with seed 0; the file stores no noise"

    def add_w_avg(self, network: str, spec: StyleGAN2Spec, latent_avg: object) -> None:
        """Take the mean of w from the file, or else compute it."""
        name = f"{network}.mapping.w_avg"
        if isinstance(latent_avg, Tensor):
            self.tensors[name] = as_float32(self.path, "latent_avg", latent_avg).reshape(-1)
            return
        prefix = f"{network}.mapping."
        stack = {n.removeprefix(prefix): t for n, t in self.tensors.items() if n.startswith(prefix)}
        try:
            self.tensors[name] = mean_w(spec, stack)
        except RuntimeError as error:
            raise refuse(self.path, f"its mapping network is not whole: {error}") from None
        self.made[name] = "mean of w over 4096 latents of seed 0; the file stores none"

    def copy_generator(self, here: str) -> str:
        """Give the generator that the file lacks the tensors of the other, and return a note on it."""
        lacking = "generator" if here == "generator_ema" else "generator_ema"
        for name, tensor in list(self.tensors.items()):
            if name.startswith(f"{here}."):
                self.tensors[f"{lacking}{name.removeprefix(here)}"] = tensor.clone()
        return f"The file holds no {lacking}; it is a copy of {here}."
