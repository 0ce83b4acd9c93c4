"""Reads the networks of NVIDIA's stylegan2-ada-pytorch, from its pickles or from state dicts in its names.

Names and shapes are ours, so reading is a filter on names; what takes care is the configuration. It is taken
from the file: a checkpoint with 8 mapping layers read into a network of 2 loses 6 of them without a word
where copying is by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from graftgan.checkpoints.imported import Content, Imported, refuse
from graftgan.checkpoints.pickle_machine import shown
from graftgan.checkpoints.readers.strict import (
    as_float32,
    check_sizes,
    check_whole,
    is_state,
    spec_of,
    unprefixed,
)
from graftgan.checkpoints.readers.stylegan2_layout import check_filter, width_rule
from graftgan.checkpoints.unpickle import Stub
from graftgan.gans.stylegan2.spec import StyleGAN2Spec

NETWORKS = {"G_ema": "generator_ema", "G": "generator", "D": "discriminator"}
"""Name in the file -> ours."""
STYLEGAN2_MARK = "synthesis.b4.const"
STYLEGAN3_MARK = "synthesis.input.freqs"
FILTER = "resample_filter"
INIT_KWARGS = "init_kwargs"

SIZES = frozenset(
    {
        "z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "num_layers", "channel_base",
        "channel_max", "mbstd_group_size",
    }
)  # fmt: skip
"""Arguments that become part of the spec."""
HARMLESS = frozenset(
    {
        "num_fp16_res", "use_fp16", "conv_clamp", "fp16_channels_last", "channels_last",
        "fused_modconv_default", "w_avg_beta", "freeze_layers",
    }
)  # fmt: skip
"""Arguments that change precision or training, not the network's function in float32 within its range."""
FIXED: dict[str, Any] = {
    "activation": "lrelu", "resample_filter": [1, 3, 3, 1], "kernel_size": 3, "use_noise": True,
    "lr_multiplier": 0.01, "mbstd_num_channels": 1,
}  # fmt: skip
"""Arguments that our networks know one value of."""
ARCHITECTURE = {"G": "skip", "G_ema": "skip", "D": "resnet"}


@dataclass(frozen=True)
class Network:
    """One network of a file: its tensors and the arguments it was built with, if the file tells."""

    tensors: dict[str, Tensor]
    kwargs: dict[str, Any] | None


def flatten(stub: Stub, path: Path = Path("network")) -> dict[str, Tensor]:
    """Return the tensors of a pickled module as its `state_dict()` would, with dotted names.

    Frozen layers keep `weight` and `bias` among the buffers; they are returned alike.

    Raises:
        CheckpointError: The module is not made as torch's are, or contains a module twice.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", stub)]
    while waiting:
        prefix, module = waiting.pop()
        if not isinstance(module, Stub) or id(module) in seen:
            raise refuse(path, f"module {shown(prefix[:-1])!r} is no module, or occurs twice")
        seen.add(id(module))
        passing = module.state.get("_non_persistent_buffers_set") or ()
        for kind in ("_parameters", "_buffers"):
            for name, tensor in _part(module, kind, path).items():
                if tensor is None or (kind == "_buffers" and name in passing):
                    continue
                if not isinstance(tensor, Tensor) or f"{prefix}{name}" in tensors:
                    raise refuse(path, f"{shown(prefix)}{shown(name)} is no tensor, or occurs twice")
                tensors[f"{prefix}{name}"] = tensor
        children = _part(module, "_modules", path)
        waiting += [(f"{prefix}{name}.", child) for name, child in reversed(children.items()) if child]
    return tensors


def _part(module: Stub, kind: str, path: Path) -> dict[str, Any]:
    part = module.state.get(kind, {})
    if not isinstance(part, dict):
        raise refuse(path, f"{kind} of {shown(module.class_name)} is a {type(part).__name__}")
    return part


def init_kwargs(stub: Stub) -> dict[str, Any]:
    """Return the arguments a pickled network was built with; those nested in `synthesis_kwargs` as well.

    stylegan2-ada-pytorch nests `channel_base` and its like, the StyleGAN3 repository passes them flat.
    """
    return _flat(stub.state.get("_init_kwargs"))


def _flat(kwargs: Any) -> dict[str, Any]:
    if not isinstance(kwargs, dict):
        return {}
    nested = kwargs.get("synthesis_kwargs")
    outer = {key: value for key, value in kwargs.items() if key != "synthesis_kwargs"}
    return {**nested, **outer} if isinstance(nested, dict) else outer


def stubs(content: Content) -> dict[str, Stub]:
    """Return the networks of a pickle by their names in the file: `G`, `D`, `G_ema`."""
    tree = content.tree
    if isinstance(tree, Stub):
        return {"G_ema": tree}
    if content.container != "nvidia-pickle" or not isinstance(tree, dict):
        return {}
    return {name: tree[name] for name in NETWORKS if isinstance(tree.get(name), Stub)}


def matches(content: Content) -> bool:
    """Tell whether the content is a StyleGAN2 or StyleGAN3 in NVIDIA's layout."""
    if stubs(content):
        return True
    return any(
        mark in network.tensors
        for network in _states(content).values()
        for mark in (STYLEGAN2_MARK, STYLEGAN3_MARK)
    )


def read(content: Content) -> Imported:
    """Convert all networks.

    Raises:
        CheckpointError: The networks are of another kind, or would load in part only.
    """
    path = content.path
    networks = {
        name: Network(flatten(stub, path), init_kwargs(stub)) for name, stub in stubs(content).items()
    }
    networks = networks or _states(content)
    for network in networks.values():
        for kwargs in (network.kwargs or {}, _inner(network.kwargs or {}, "mapping_kwargs")):
            check_sizes(path, kwargs, len(network.tensors))
    if any(STYLEGAN3_MARK in network.tensors for network in networks.values()):
        from graftgan.checkpoints.readers.nvidia3 import read_networks

        return read_networks({name: (n.tensors, n.kwargs or {}) for name, n in networks.items()}, path)
    generator = networks.get("G_ema") or networks.get("G")
    if generator is None or STYLEGAN2_MARK not in generator.tensors:
        raise refuse(
            path, "holds no StyleGAN2 generator", {key for n in networks.values() for key in n.tensors}
        )
    for name, network in networks.items():
        _check_arguments(path, name, network.kwargs or {})
    spec = _spec(path, generator, networks.get("D"))
    tensors, skipped = _convert(path, networks)
    notes = [*_fill(tensors, networks), *_notes(content, networks)]
    absent = () if "D" in networks else ("discriminator",)
    check_whole(path, spec, tensors, absent)
    return Imported("nvidia", spec, tensors, skipped | _others(content), {}, absent, tuple(notes))


def _states(content: Content) -> dict[str, Network]:
    """Return networks given as state dicts, nested or with dotted names."""
    tree = content.tree
    if not isinstance(tree, Mapping):
        return {}
    given = tree.get(INIT_KWARGS, content.config.get(INIT_KWARGS))
    kwargs = given if isinstance(given, Mapping) else {}
    found = {name: unprefixed(tree[name]) for name in NETWORKS if is_state(tree.get(name))}
    if is_state(tree):
        dotted = {name: _below(tree, f"{name}.") for name in NETWORKS}
        found = {name: part for name, part in dotted.items() if part} or {"G_ema": unprefixed(tree)}
    return {
        name: Network(state, _flat(kwargs[name]) if isinstance(kwargs.get(name), dict) else None)
        for name, state in found.items()
    }


def _below(tree: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tree.items() if name.startswith(prefix)}


def _check_arguments(path: Path, name: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that would make the network compute something else than ours.

    Raises:
        CheckpointError: An argument is unknown, or has a value that our networks do not have.
    """
    for key, value in kwargs.items():
        if isinstance(value, dict) and str(key).endswith("_kwargs"):
            _check_arguments(path, name, value)
        elif key in SIZES or key in HARMLESS or value is None:
            continue
        elif value != (ARCHITECTURE[name] if key == "architecture" else FIXED.get(key, _Unknown)):
            raise refuse(path, f"{name} was built with {shown(key)} = {shown(value)}, which is not supported")


class _Unknown:
    """Stands for the value of an argument that is not known; equal to nothing in a file."""


def _spec(path: Path, generator: Network, discriminator: Network | None) -> StyleGAN2Spec:
    critic = {} if discriminator is None else discriminator.kwargs or {}
    if generator.kwargs is None:
        sizes = _sizes_from_shapes(path, generator.tensors)
    else:
        sizes = _sizes_from_arguments(path, generator.kwargs)
        for key, default in (("channel_base", 32768), ("channel_max", 512)):
            if critic and critic.get(key, default) != sizes[key]:
                raise refuse(
                    path, f"D has {key} {shown(critic.get(key, default))}, G has {shown(sizes[key])}"
                )
    sizes["mbstd_group"] = _inner(critic, "epilogue_kwargs").get("mbstd_group_size", 4)
    sizes["label_layers"] = _inner(critic, "mapping_kwargs").get("num_layers", 8)
    spec: StyleGAN2Spec = spec_of(path, StyleGAN2Spec, sizes)
    return spec


def _inner(kwargs: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    inner = kwargs.get(key)
    return inner if isinstance(inner, dict) else {}


def _sizes_from_arguments(path: Path, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes in a generator's arguments; those left out had the public defaults."""
    names = {"resolution": "img_resolution", "channels": "img_channels", "z_dim": "z_dim",
             "w_dim": "w_dim", "classes": "c_dim"}  # fmt: skip
    if lacking := [name for name in names.values() if name not in kwargs]:
        raise refuse(path, f"its generator does not tell {', '.join(lacking)}", dict(kwargs))
    return {
        **{ours: kwargs[theirs] for ours, theirs in names.items()},
        "mapping_layers": _inner(kwargs, "mapping_kwargs").get("num_layers", 8),
        "channel_base": kwargs.get("channel_base", 32768),
        "channel_max": kwargs.get("channel_max", 512),
    }


def _sizes_from_shapes(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the sizes that a generator's tensors show."""
    widths: dict[int, int] = {}
    while f"synthesis.b{(side := 4 << len(widths))}.conv1.bias" in tensors:
        widths[side] = tensors[f"synthesis.b{side}.conv1.bias"].numel()
    layers = sum(1 for name in tensors if name.startswith("mapping.fc") and name.endswith(".bias"))
    try:
        w_dim = tensors["mapping.w_avg"].numel()
        embedding = tensors.get("mapping.embed.weight")
        z_dim = tensors["mapping.fc0.weight"].shape[1] - (0 if embedding is None else w_dim)
        channels = tensors["synthesis.b4.torgb.bias"].numel()
        base, most = width_rule(path, widths)
        classes = 0 if embedding is None else embedding.shape[1]
    except (KeyError, IndexError, ValueError) as error:
        raise refuse(path, f"its sizes cannot be told: {error}", dict(tensors)) from None
    return {
        "resolution": max(widths), "channels": channels, "z_dim": z_dim, "w_dim": w_dim, "classes": classes,
        "mapping_layers": layers, "channel_base": base, "channel_max": most,
    }  # fmt: skip


def _convert(path: Path, networks: Mapping[str, Network]) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors, skipped = {}, {}
    for theirs, network in networks.items():
        for name, tensor in network.tensors.items():
            if name.rpartition(".")[2] == FILTER:
                skipped[f"{theirs}.{name}"] = check_filter(path, name, tensor)
            else:
                tensors[f"{NETWORKS[theirs]}.{name}"] = as_float32(path, f"{theirs}.{name}", tensor)
    return tensors, skipped


def _fill(tensors: dict[str, Tensor], networks: Mapping[str, Network]) -> list[str]:
    """Give both generators the tensors of the one that the file holds, and say so."""
    if "G_ema" in networks and "G" in networks:
        return []
    here, lacking = ("generator", "generator_ema") if "G" in networks else ("generator_ema", "generator")
    for name, tensor in list(tensors.items()):
        if name.startswith(f"{here}."):
            tensors[f"{lacking}{name.removeprefix(here)}"] = tensor.clone()
    return [f"The file holds no {lacking}; it is a copy of {here}."]


def _notes(content: Content, networks: Mapping[str, Network]) -> list[str]:
    notes = []
    if any((network.kwargs or {}).get("conv_clamp") is not None for network in networks.values()):
        notes.append(
            "It was trained with activations limited to +-256 (conv_clamp); in float32 ours are not."
        )
    if all(network.kwargs is None for network in networks.values()):
        notes.append(
            "The file does not tell its configuration; sizes were read off the shapes of its tensors."
        )
    tree = content.tree if isinstance(content.tree, dict) else {}
    data = tree.get("training_set_kwargs")
    if isinstance(data, dict) and isinstance(data.get("path"), str):
        name = data["path"].replace("\\", "/").rstrip("/").rpartition("/")[2]
        notes.append(f"The file says that it was trained on {shown(name)}.")
    return notes


def _others(content: Content) -> dict[str, str]:
    tree = content.tree if isinstance(content.tree, dict) and not is_state(content.tree) else {}
    reasons = {"augment_pipe": "this project has its own augmentation", INIT_KWARGS: "read into the spec"}
    return {
        str(name): reasons.get(str(name), "no network")
        for name, value in tree.items()
        if name not in NETWORKS and value is not None
    }
