"""Writes checkpoints in public layouts, for use in the projects that they come from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from graftgan.checkpoints.readers.nvidia import FILTER, INIT_KWARGS, NETWORKS
from graftgan.checkpoints.readers.rosinality import (
    GENERATORS,
    UP_GAIN,
    Pair,
    discriminator_pairs,
    generator_pairs,
    kernel_names,
)
from graftgan.checkpoints.readers.stylegan2_layout import filter_kernel
from graftgan.errors import ConfigError
from graftgan.gans.stylegan2.spec import StyleGAN2Spec

ROSINALITY_BASES = (16384, 32768)
Tensors = Mapping[str, Tensor]


def write_rosinality(tensors: Tensors, spec: Any, path: Path) -> tuple[str, ...]:
    """Write `g`, `g_ema`, `latent_avg` and any `d`, as rosinality's stylegan2-pytorch reads them.

    Args:
        tensors: `generator.…`, `generator_ema.…`, `discriminator.…`.
        spec: An unconditional StyleGAN2 of three channels with z as long as w.
        path: File to write; an existing one is replaced.

    Returns:
        Sentences for the user.

    Raises:
        ConfigError: That layout has no place for such a network.
    """
    _check_rosinality(_stylegan2(spec, "rosinality"))
    kernels = kernel_names(spec)
    file: dict[str, Any] = {
        theirs: _renamed(_part(tensors, ours), list(generator_pairs(spec)), kernels[0], UP_GAIN)
        for theirs, ours in GENERATORS.items()
    }
    if critic := _part(tensors, "discriminator"):
        file["d"] = _renamed(critic, list(discriminator_pairs(spec)), kernels[1], 1.0)
    file["latent_avg"] = tensors["generator_ema.mapping.w_avg"].clone()
    torch.save(file, path)
    return _rosinality_notes(tensors, spec)


def write_stylegan2_ada(tensors: Tensors, spec: Any, path: Path) -> tuple[str, ...]:
    """Write the state dicts of `G`, `G_ema` and `D` with the names of stylegan2-ada-pytorch.

    A name that ends in `.safetensors` gives dotted names in one safetensors file, any other name a torch
    archive of nested dicts. Both tell the arguments that build the networks, `init_kwargs`.

    Args:
        tensors: `generator.…`, `generator_ema.…`, `discriminator.…`.
        spec: A StyleGAN2.
        path: File to write; an existing one is replaced.

    Returns:
        Sentences for the user.

    Raises:
        ConfigError: It is no StyleGAN2.
    """
    _stylegan2(spec, "stylegan2-ada-state")
    states = {
        theirs: _with_filters(part) for theirs, ours in NETWORKS.items() if (part := _part(tensors, ours))
    }
    kwargs = {name: _arguments(spec, name) for name in states}
    if path.suffix == ".safetensors":
        flat = {f"{name}.{key}": t for name, state in states.items() for key, t in state.items()}
        save_file(flat, path, metadata={INIT_KWARGS: json.dumps(kwargs, sort_keys=True)})
        path.chmod(0o644)
    else:
        torch.save({**states, INIT_KWARGS: kwargs}, path)
    return ("Build each network with its init_kwargs, then load its state dict.",)


def write_translation(tensors: Tensors, spec: Any, path: Path) -> tuple[str, ...]:
    """Write a pix2pix or CycleGAN network; see :mod:`graftgan.checkpoints.writers_translation`.

    Raises:
        ConfigError: It is no translation network.
    """
    from graftgan.checkpoints import writers_translation

    if spec.family != "translation":
        raise ConfigError(f"cyclegan holds translation networks, not {spec.family}", "choose another format")
    writers_translation.write_translation(tensors, spec, path)
    return ()


Writer = Callable[[Tensors, Any, Path], tuple[str, ...]]
WRITERS: dict[str, Writer] = {
    "rosinality": write_rosinality,
    "stylegan2-ada-state": write_stylegan2_ada,
    "cyclegan": write_translation,
}
"""Format -> writer of (tensors, spec, path), which returns notes for the user."""


def _stylegan2(spec: Any, layout: str) -> StyleGAN2Spec:
    if not isinstance(spec, StyleGAN2Spec):
        raise ConfigError(f"{layout} holds StyleGAN2s, not {spec.family}", "choose another format")
    return spec


def _check_rosinality(spec: StyleGAN2Spec) -> None:
    for problem, wrong in (
        ("classes", spec.classes > 0),
        (f"{spec.channels} image channels", spec.channels != 3),
        (f"z of length {spec.z_dim} and w of length {spec.w_dim}", spec.z_dim != spec.w_dim),
    ):
        if wrong:
            raise ConfigError(f"rosinality's layout has no networks with {problem}", "choose another format")


def _rosinality_notes(tensors: Tensors, spec: StyleGAN2Spec) -> tuple[str, ...]:
    notes = []
    if not torch.equal(tensors["generator_ema.mapping.w_avg"], tensors["generator.mapping.w_avg"]):
        notes.append("The layout stores one mean of w, that of g_ema; that of g is lost.")
    widths = [spec.width(r) for r in spec.block_resolutions]
    stock = [[min(base // r, 512) for r in spec.block_resolutions] for base in ROSINALITY_BASES]
    if widths not in stock:
        notes.append(f"No channel_multiplier gives widths {widths}; change the project's table of channels.")
    if spec.mbstd_group != 4:
        notes.append(
            f"The layout does not tell the mini-batch group, {spec.mbstd_group}; it will be read as 4."
        )
    return tuple(notes)


def _part(tensors: Tensors, network: str) -> dict[str, Tensor]:
    prefix = f"{network}."
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _renamed(part: Tensors, pairs: list[Pair], kernels: list[str], gain: float) -> dict[str, Tensor]:
    state = {pair.theirs: part[pair.ours].reshape(pair.wrap(part[pair.ours].shape)).clone() for pair in pairs}
    return state | {name: filter_kernel(gain) for name in kernels}


def _with_filters(part: Tensors) -> dict[str, Tensor]:
    """Add the filters that NVIDIA's modules keep as buffers."""
    state = {name: tensor.clone() for name, tensor in part.items()}
    return state | {f"{owner}.{FILTER}": filter_kernel() for owner in sorted(_filter_owners(part))}


def _filter_owners(part: Tensors) -> set[str]:
    """Return the modules with a filter: convolutions but `torgb`, and blocks but the discriminator's last."""
    owners = set()
    for name in part:
        owner, _, leaf = name.rpartition(".")
        block, _, layer = owner.rpartition(".")
        if leaf == "weight" and layer in ("conv0", "conv1", "skip", "fromrgb", "conv"):
            owners |= {owner} if layer == "conv" else {owner, block}
    return owners


def _arguments(spec: StyleGAN2Spec, network: str) -> dict[str, Any]:
    shared = {"c_dim": spec.classes, "img_resolution": spec.resolution, "img_channels": spec.channels}
    widths = {"channel_base": spec.channel_base, "channel_max": spec.channel_max}
    if network == "D":
        mapping, epilogue = {"num_layers": spec.label_layers}, {"mbstd_group_size": spec.mbstd_group}
        return {**shared, **widths, "mapping_kwargs": mapping, "epilogue_kwargs": epilogue}
    return {
        **shared,
        "z_dim": spec.z_dim,
        "w_dim": spec.w_dim,
        "mapping_kwargs": {"num_layers": spec.mapping_layers},
        "synthesis_kwargs": widths,
    }
