"""Reads `BigGAN-PyTorch` state dicts: `G_ema.pth`, `G.pth` or `D.pth` alone, or the folder of an experiment.

Names are ours but for a prefix ``module.``. Sizes are read off shapes; only the constants that are added to
variances and norms are in no file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graftgan.checkpoints.imported import Content, Imported, refuse
from graftgan.checkpoints.store import compare
from graftgan.errors import ConfigError
from graftgan.gans.biggan import BigGANSpec, build_networks
from graftgan.gans.biggan.spec import ATTENTION_DIVISOR, D_HALVINGS, D_WIDTHS, G_WIDTHS

FORMAT = "biggan"
PREFIX = "module."
FOLDER = "folder"
CHUNK = 20
TRAINED_EPS = {"bn_eps": 1e-5, "sn_eps": 1e-6}
CONVERTED_EPS = {"bn_eps": 1e-4, "sn_eps": 1e-4}
SURPLUS = re.compile(r"\.s?[uv][1-9]\d*$")
Shapes = Mapping[str, tuple[int, ...]]


@dataclass
class Network:
    """One state dict of the file, under our names.

    Attributes:
        origin: Name of the file in its folder, or "".
        state: Tensors in float32.
        skipped: Name in the file -> why it is not needed.
        made: Name of ours that the file lacks -> how it was made.
    """

    origin: str
    state: dict[str, Tensor]
    skipped: dict[str, str] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors."""
        return {name: tuple(tensor.shape) for name, tensor in self.state.items()}


def matches(content: Content) -> bool:
    """Tell whether the file, or one in the folder, is a generator or discriminator of this project."""
    return any(_role(part) for part in _parts(content).values())


def read(content: Content) -> Imported:
    """Convert the networks; a folder gives the set without a suffix, or its only one.

    Raises:
        CheckpointError: A tensor is missing, unknown or of the wrong shape, the variant is one whose output
            the file does not determine, or a folder holds several sets.
    """
    path, parts = content.path, _parts(content)
    chosen = _choose(path, parts)
    networks = {ours: _network(path, name, parts[name]) for ours, name in chosen.items()}
    spec = _spec(content, networks)
    _fit(path, spec, networks)
    skipped = {name: _unused(parts.get(name)) for name in _names(content) if name not in chosen.values()}
    for network in networks.values():
        skipped |= network.skipped
    made = {f"{ours}.{name}": how for ours, network in networks.items() for name, how in network.made.items()}
    tensors = {f"{ours}.{name}": t for ours, net in networks.items() for name, t in net.state.items()}
    made |= copy_generator(tensors)
    return Imported(
        format=FORMAT,
        spec=spec,
        tensors=tensors,
        skipped=skipped,
        made=made,
        absent=tuple(
            n for n in ("generator", "discriminator") if not any(k.startswith(f"{n}.") for k in tensors)
        ),
        notes=_notes(content, spec, networks),
    )


def copy_generator(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Fill whichever of `generator` and `generator_ema` is absent from the other; return what was made."""
    made = {}
    for ours, other in (("generator", "generator_ema"), ("generator_ema", "generator")):
        if any(name.startswith(f"{ours}.") for name in tensors):
            continue
        for name in [name for name in tensors if name.startswith(f"{other}.")]:
            copy = f"{ours}.{name.removeprefix(f'{other}.')}"
            tensors[copy] = tensors[name].clone()
            made[copy] = f"copy of {name}"
    return made


def state_of(path: Path, origin: str, part: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return the tensors of a state dict in float32, without the prefix of parallel training.

    Raises:
        CheckpointError: An entry is not a tensor of floats, or repeats its data to look larger.
    """
    state = {}
    for name, value in part.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise refuse(path, f"{origin or 'the file'}: `{name}` is not a tensor of floats")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise refuse(path, f"{origin or 'the file'}: `{name}` is larger than its data")
        state[str(name).removeprefix(PREFIX)] = value.detach().to(torch.float32).contiguous()
    return state


def expect(path: Path, origin: str, state: dict[str, Tensor], network: nn.Module) -> None:
    """Check that a state dict is that of a network, which may be on the meta device, by names and shapes.

    Raises:
        CheckpointError: A tensor is missing, unknown or of another shape.
    """
    table = compare(state, network.state_dict())
    if not table.whole:
        raise refuse(path, f"{origin or 'the file'} would load in part only: {table}")


def _parts(content: Content) -> dict[str, Any]:
    """Return the state dicts by file name; a file by itself is named ""."""
    if not isinstance(content.tree, dict):
        return {}
    if content.container != FOLDER:
        return {"": content.tree}
    return {str(name): part for name, part in content.tree.items() if isinstance(part, dict)}


def _names(content: Content) -> list[str]:
    return [str(name) for name in content.tree] if content.container == FOLDER else []


def _role(part: object) -> str | None:
    """Return `generator` or `discriminator` by the names in a state dict."""
    if not isinstance(part, dict):
        return None
    names = {str(name).removeprefix(PREFIX) for name in part}
    if not {"linear.weight", "blocks.0.0.conv1.weight", "blocks.0.0.conv2.weight"} <= names:
        return None
    if any(name.startswith("blocks.0.0.bn1.") for name in names):
        return "generator"
    return "discriminator" if {"linear.u0", "blocks.0.0.conv1.u0"} <= names else None


def _choose(path: Path, parts: Mapping[str, Any]) -> dict[str, str]:
    """Return our name of each network -> name of its file."""
    sets: dict[str, dict[str, str]] = {}
    for name, part in parts.items():
        role, stem = _role(part), Path(name).stem
        if role is None:
            continue
        if role == "generator" and "ema" in stem.lower():
            role = "generator_ema"
        named = re.fullmatch(r"(?:G_ema|G|D)(?:_(.+))?", stem)
        suffix = (named[1] or "") if named else ""
        other = sets.setdefault(suffix, {}).setdefault(role, name)
        if other != name:
            raise refuse(path, f"both {other} and {name} hold a {role}; leave one")
    if "" in sets:
        return sets[""]
    if len(sets) > 1:
        raise refuse(path, f"holds several sets of networks ({', '.join(sorted(sets))}); leave one")
    return next(iter(sets.values()))


def _unused(part: object) -> str:
    if _role(part):
        return "another copy of the networks"
    if isinstance(part, dict) and "param_groups" in part:
        return "state of an optimiser"
    return "no network"


def _network(path: Path, origin: str, part: Mapping[Any, Any]) -> Network:
    state = state_of(path, origin, part)
    _refuse_variants(path, state)
    net = Network(origin, {})
    for name, tensor in state.items():
        label = f"{origin}: {name}" if origin else name
        if SURPLUS.search(name):
            net.skipped[label] = "a further singular vector or value; only the first divides the weight"
        elif name.endswith(".accumulation_counter"):
            net.skipped[label] = "0: the statistics beside it are means already"
        else:
            net.state[name.replace(".bn.stored_", ".stored_")] = _shaped(name, tensor)
    for name in [n for n in net.state if n.endswith(".u0")]:
        log = name.removesuffix("u0") + "sv0"
        if log not in net.state:
            net.state[log] = torch.ones(1)
            net.made[log] = "1: a log of training that no computation reads"
    return net


def _shaped(name: str, tensor: Tensor) -> Tensor:
    """Bring scalars and vectors of spectral normalisation, which some conversions flatten, to one shape."""
    if name.endswith(".1.gamma") and tensor.numel() == 1:
        return tensor.reshape(())
    return tensor.reshape(1, -1) if name.endswith(".u0") and tensor.ndim == 1 else tensor


def _refuse_variants(path: Path, state: Mapping[str, Tensor]) -> None:
    if "blocks.0.0.conv3.weight" in state:
        raise refuse(
            path, "is the BigGAN-deep of this project, of which no layout is known here", list(state)
        )
    if "linear.u0" not in state:
        raise refuse(path, "was trained without spectral normalisation (`linear.u0` is absent)", list(state))
    for name, tensor in state.items():
        if name.endswith(".bn.running_mean"):
            raise refuse(
                path,
                f"has cross-replica batch norms (`{name}`), which the public code computes in two ways: gain "
                "is a factor on several GPUs and a summand otherwise; the file does not say which it was",
            )
        if name.endswith(".accumulation_counter") and bool(tensor.any()):
            raise refuse(path, f"holds sums of statistics, not means (`{name}` is not 0)")


def _spec(content: Content, networks: Mapping[str, Network]) -> BigGANSpec:
    generator = networks.get("generator_ema") or networks.get("generator")
    discriminator = networks.get("discriminator")
    path = content.path
    try:
        g = _generator_sizes(generator.shapes) if generator else {}
        d = _discriminator_sizes(discriminator.shapes) if discriminator else {}
        for name in ("resolution", "channels", "classes"):
            if g and d and g[name] != d[name]:
                raise refuse(path, f"G and D do not belong together: {name} is {g[name]} and {d[name]}")
        return BigGANSpec.from_sizes({**_guessed(g, d), **g, **d, **_eps(content, generator)})
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise refuse(path, f"has no layout of BigGAN ({error!r})") from error
    except ConfigError as error:
        raise refuse(path, f"describes a network that cannot be built: {error.message}") from error


def _blocks(shapes: Shapes) -> int:
    return max(int(name.split(".")[1]) for name in shapes if name.endswith(".0.conv1.weight")) + 1


def _attended(shapes: Shapes) -> list[int]:
    return [i for i in range(_blocks(shapes)) if f"blocks.{i}.1.gamma" in shapes]


def _generator_sizes(shapes: Shapes) -> dict[str, Any]:
    blocks, chunk = _blocks(shapes), shapes["linear.weight"][1]
    resolution = {len(widths) - 1: side for side, widths in G_WIDTHS.items()}[blocks]
    rows, inputs = shapes["blocks.0.0.bn1.gain.weight"]
    classes, shared_dim, hier = rows, 0, False
    if "shared.weight" in shapes:
        classes, shared_dim = shapes["shared.weight"]
        hier = inputs == shared_dim + chunk
    elif "blocks.0.0.bn1.gain.u0" in shapes:
        classes, shared_dim, hier = 0, BigGANSpec.shared_dim, True
    return {
        "resolution": resolution,
        "channels": shapes["output_layer.2.weight"][0],
        "classes": classes,
        "z_dim": chunk * (blocks + 1) if hier else chunk,
        "g_ch": shapes["blocks.0.0.conv1.weight"][0] // G_WIDTHS[resolution][1],
        "g_attn": [8 * 2**i for i in _attended(shapes)],
        "shared_dim": shared_dim,
        "hier": hier,
    }


def _discriminator_sizes(shapes: Shapes) -> dict[str, Any]:
    resolution = {len(widths): side for side, widths in D_WIDTHS.items()}[_blocks(shapes)]
    sides = {max(resolution >> (i + 1), resolution >> D_HALVINGS[resolution]) for i in _attended(shapes)}
    return {
        "resolution": resolution,
        "channels": shapes["blocks.0.0.conv1.weight"][1],
        "classes": shapes["embed.weight"][0] if "embed.weight" in shapes else 0,
        "d_ch": shapes["blocks.0.0.conv2.weight"][0] // D_WIDTHS[resolution][0],
        "d_attn": [16] if resolution == 32 and sides else sorted(sides),
    }


def _guessed(g: Mapping[str, Any], d: Mapping[str, Any]) -> dict[str, Any]:
    """Return sizes of the network that the file lacks, like the other's or the published ones."""
    resolution, width = (g or d)["resolution"], g["g_ch"] if g else d["d_ch"]
    enough = width >= ATTENTION_DIVISOR
    return {
        "z_dim": CHUNK * len(G_WIDTHS[resolution]),
        "g_ch": width,
        "d_ch": width,
        "g_attn": [128 if resolution == 256 else 64] if enough else [],
        "d_attn": [64] if enough else [],
    }


def _eps(content: Content, generator: Network | None) -> dict[str, Any]:
    """Return the constants, by the config beside the file or else by where the file comes from."""
    converted = generator is not None and all(
        log in generator.made for log in generator.state if log.endswith(".sv0")
    )
    given = {ours: content.config[key] for ours, key in _EPS_KEYS.items() if key in content.config}
    return {**(CONVERTED_EPS if converted else TRAINED_EPS), **given}


_EPS_KEYS = {"bn_eps": "BN_eps", "sn_eps": "SN_eps"}


def _fit(path: Path, spec: BigGANSpec, networks: Mapping[str, Network]) -> None:
    with torch.device("meta"):
        generator, discriminator = build_networks(spec)
    for ours, network in networks.items():
        expected = discriminator if ours == "discriminator" else generator
        expect(path, network.origin, network.state, expected)


def _notes(content: Content, spec: BigGANSpec, networks: Mapping[str, Network]) -> tuple[str, ...]:
    notes = []
    if not set(_EPS_KEYS.values()) <= set(content.config):
        converted = spec.bn_eps == CONVERTED_EPS["bn_eps"]
        kind = "models converted from TensorFlow" if converted else "the public code"
        values = f"{spec.bn_eps:g} and {spec.sn_eps:g}"
        notes.append(f"The file does not hold bn_eps and sn_eps; {values} are those of {kind}.")
    if "generator" in networks and "generator_ema" not in networks:
        notes.append("There is one generator; whether it is a moving average is not in the file.")
    if not {"generator", "generator_ema"} & set(networks):
        notes.append("There is no generator; its sizes in the spec follow the discriminator's.")
    notes.append(
        "Batch norms hold statistics of the source's classes: keep them (`freeze_statistics`) in fine-tuning."
    )
    return tuple(notes)
