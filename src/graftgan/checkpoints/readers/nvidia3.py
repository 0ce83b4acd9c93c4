"""Networks of the public ``stylegan3`` repository, once unpickled: spec from arguments, tensors by name.

Sizes are taken from the arguments stored in the file and are then held against every tensor's name and shape
and against the values of the stored filters, so a network that differs in any way is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graftgan.checkpoints.imported import Imported, refuse
from graftgan.checkpoints.pickle_machine import shown
from graftgan.checkpoints.readers.strict import as_float32, check_whole, spec_of
from graftgan.checkpoints.readers.stylegan2_layout import check_filter
from graftgan.gans.stylegan3 import StyleGAN3Generator, StyleGAN3Spec

FORMAT = "nvidia"
Network = tuple[dict[str, Tensor], dict[str, Any]]

SIZES: dict[str, tuple[str, int | None]] = {
    "resolution": ("img_resolution", None),
    "channels": ("img_channels", None),
    "classes": ("c_dim", None),
    "z_dim": ("z_dim", None),
    "w_dim": ("w_dim", None),
    "channel_base": ("channel_base", 32768),
    "channel_max": ("channel_max", 512),
    "num_layers": ("num_layers", 14),
    "num_critical": ("num_critical", 2),
    "margin_size": ("margin_size", 10),
}
"""Field of the spec -> the argument's name, and its value where it is left out."""
BANDS = {"first_cutoff": 2.0, "first_stopband": 2**2.1, "last_stopband_rel": 2**0.3}
VARIANTS = {(3, False): "t", (1, True): "r"}
"""(``conv_kernel``, ``use_radial_filters``) -> variant."""
VARIANT_KEYS = ("conv_kernel", "use_radial_filters")
FIXED: dict[str, tuple[object, ...]] = {
    "filter_size": (6,),
    "lrelu_upsampling": (2,),
    "output_scale": (0.25,),
    "conv_clamp": (256, None),
    "lr_multiplier": (0.01,),
}
"""Arguments of which this package's network has one value; no clamp at all is close enough for a note."""
HARMLESS = frozenset({"magnitude_ema_beta", "num_fp16_res", "use_fp16", "w_avg_beta", "mapping_kwargs"})
"""Arguments that change precision or training, or that are looked at elsewhere."""
FILTER_TOLERANCE = 1e-5
OURS = {"generator_ema": ("G_ema", "G"), "generator": ("G", "G_ema")}
"""Our network -> theirs, and the one that stands for it."""


def read_networks(networks: Mapping[str, Network], path: Path) -> Imported:
    """Convert the networks of one file.

    Args:
        networks: ``G``, ``D`` and ``G_ema``, as far as the file has them, as (flat state, arguments that the
            network was made with).
        path: The file, for messages.

    Returns:
        Tensors of ``generator_ema``, ``generator`` and ``discriminator`` that load strictly. If the file has
        one generator only, it stands for both, which ``notes`` says. A discriminator that the generator's
        sizes do not give is left out and listed in ``skipped``.

    Raises:
        CheckpointError: No generator is there, an argument is one this package has no network for, a tensor
            is missing, unknown, of another shape or not of real numbers, or a filter is not what the sizes
            give.
    """
    found = [name for name in ("G_ema", "G") if name in networks]
    if not found:
        raise refuse(path, "holds no generator (G or G_ema)", list(networks))
    specs = [_spec(networks, name, path) for name in found]
    if specs[0] != specs[-1]:
        raise refuse(path, "G and G_ema were made with different arguments")
    tensors, notes = _generators(networks, path)
    critic, skipped, reason = _discriminator(networks.get("D"), specs[0], path)
    absent = () if critic else ("discriminator",)
    check_whole(path, specs[0], tensors | critic, absent)
    for name in found:
        _check_bandwidths(networks[name][0], specs[0], name, path)
        if "conv_clamp" in networks[name][1] and networks[name][1]["conv_clamp"] is None:
            notes.append(f"{name} was made without the limit of 256 on activations, which ours has.")
    notes += [f"The discriminator is left out: {reason}."] if reason else []
    return Imported(FORMAT, specs[0], tensors | critic, skipped, {}, absent, tuple(notes))


def _generators(networks: Mapping[str, Network], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    tensors: dict[str, Tensor] = {}
    notes = []
    for ours, (theirs, other) in OURS.items():
        source = theirs if theirs in networks else other
        for name, tensor in networks[source][0].items():
            tensors[f"{ours}.{name}"] = as_float32(path, f"{source}.{name}", tensor)
        if source == other:
            notes.append(f"The file holds no {theirs}; {ours} is a copy of {other}.")
    return tensors, notes


def _spec(networks: Mapping[str, Network], name: str, path: Path) -> StyleGAN3Spec:
    """Derive the sizes from the stored arguments; those left out have the repository's defaults."""
    state, kwargs = networks[name]
    mapping = _inner(kwargs, "mapping_kwargs")
    _check_arguments(kwargs, name, path)
    _check_arguments(mapping, f"{name}.mapping", path)
    kind = (kwargs.get("conv_kernel", 3), bool(kwargs.get("use_radial_filters", False)))
    if kind not in VARIANTS:
        raise refuse(path, f"{name} has conv_kernel {shown(kind[0])} and use_radial_filters {kind[1]}")
    values: dict[str, Any] = {"variant": VARIANTS[kind]}
    for ours, (theirs, default) in SIZES.items():
        values[ours] = kwargs.get(theirs, default)
        if values[ours] is None:
            raise refuse(path, f"{name} was made without {theirs}, so its size cannot be told", list(kwargs))
    values |= {band: kwargs.get(band, default) for band, default in BANDS.items()}
    if values["variant"] == "r":
        values |= {width: _half(values[width], width, path) for width in ("channel_base", "channel_max")}
    values["mapping_layers"] = _mapping_layers(state, mapping.get("num_layers", 2), path)
    critic = networks["D"][1] if "D" in networks else {}
    values["mbstd_group"] = _inner(critic, "epilogue_kwargs").get("mbstd_group_size", 4)
    values["label_layers"] = _inner(critic, "mapping_kwargs").get("num_layers", 8)
    spec: StyleGAN3Spec = spec_of(path, StyleGAN3Spec, values)
    return spec


def _inner(kwargs: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    inner = kwargs.get(key)
    return inner if isinstance(inner, dict) else {}


def _check_arguments(kwargs: Mapping[str, Any], network: str, path: Path) -> None:
    """Refuse arguments that would make the network compute something else than ours."""
    sizes = {theirs for theirs, _ in SIZES.values()}
    for key, value in kwargs.items():
        if key in HARMLESS:
            continue
        if value is not None and not isinstance(value, bool | int | float | str):
            raise refuse(path, f"{network} was made with {shown(key)} of type {type(value).__name__}")
        if key in FIXED and value in FIXED[key]:
            continue
        if key not in sizes and key not in BANDS and key not in VARIANT_KEYS:
            raise refuse(
                path, f"{network} was made with {shown(key)} = {shown(value)}, which is not supported"
            )


def _half(width: object, name: str, path: Path) -> int:
    """Return half of a width, as variant R counts twice what the spec says."""
    if not isinstance(width, int) or width % 2:
        raise refuse(path, f"{name} is {shown(width)}, which variant R cannot have")
    return width // 2


def _mapping_layers(state: Mapping[str, Tensor], told: object, path: Path) -> int:
    """Return how many layers the mapping network has: what the tensors say, which the argument must match."""
    layers = sum(name.startswith("mapping.fc") and name.endswith(".weight") for name in state)
    if layers != told:
        raise refuse(path, f"mapping has {layers} layers, its arguments say {shown(told)}")
    return layers


def _check_bandwidths(state: Mapping[str, Tensor], spec: StyleGAN3Spec, network: str, path: Path) -> None:
    """Refuse filters that the stored arguments do not give: the layers would be misunderstood."""
    thin = {"channel_max": 1, "w_dim": 1, "z_dim": 1, "classes": 0, "mapping_layers": 1}
    small = StyleGAN3Spec.from_sizes({**spec.to_dict(), **thin})
    expected = StyleGAN3Generator(small).synthesis
    for shape, other in zip(spec.layers[:-1], small.layers[:-1], strict=True):
        for kind in ("up_filter", "down_filter"):
            name = f"synthesis.{shape.name}.{kind}"
            designed = expected.get_submodule(other.name).get_buffer(kind)
            if not torch.allclose(state[name].float(), designed, rtol=0, atol=FILTER_TOLERANCE):
                raise refuse(path, f"{network}.{name} is not the filter that the network's arguments give")


def _discriminator(
    network: Network | None, spec: StyleGAN3Spec, path: Path
) -> tuple[dict[str, Tensor], dict[str, str], str]:
    """Return the tensors of the discriminator, those left out with reasons, and why it is left out whole."""
    if network is None:
        return {}, {}, ""
    state, kwargs = network
    if why := _other_discriminator(kwargs, spec):
        return {}, {f"D.{name}": why for name in state}, why
    tensors, skipped = {}, {}
    for name, tensor in state.items():
        if name.rpartition(".")[2] == "resample_filter":
            skipped[f"D.{name}"] = check_filter(path, f"D.{name}", tensor)
        else:
            tensors[f"discriminator.{name}"] = as_float32(path, f"D.{name}", tensor)
    return tensors, skipped, ""


def _other_discriminator(kwargs: Mapping[str, Any], spec: StyleGAN3Spec) -> str:
    """Return what the discriminator has that ours cannot have, or nothing."""
    wanted: dict[str, tuple[object, object]] = {
        "architecture": ("resnet", "resnet"),
        "channel_base": (spec.channel_base, 32768),
        "channel_max": (spec.channel_max, 512),
    }
    if spec.classes:
        width = spec.discriminator().width(4)
        wanted["cmap_dim"] = (width, width)
    for name, (value, default) in wanted.items():
        told = default if kwargs.get(name) is None else kwargs[name]
        if isinstance(told, Tensor) or told != value:
            return f"its {name} is {shown(told)}, not {shown(value)}"
    maps = _inner(kwargs, "epilogue_kwargs").get("mbstd_num_channels", 1)
    return "" if maps == 1 else f"its mbstd_num_channels is {shown(maps)}, not 1"
