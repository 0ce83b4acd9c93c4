"""Reads DCGANs in the layout of PyTorch's tutorial: layers ``main.{n}`` of a generator or of both networks.

A generator may be the file itself or lie under ``netG_state_dict``, beside a discriminator under
``netD_state_dict``. Layers that are named one by one, ``convTr{i}`` and ``batchNorm{i}``, are counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graftgan.checkpoints.imported import Content, Imported, refuse
from graftgan.checkpoints.readers.strict import as_float32, check_whole, is_state, spec_of, unprefixed
from graftgan.gans.dcgan import DCGANSpec

FORMAT = "dcgan"
GENERATOR, DISCRIMINATOR = "netG_state_dict", "netD_state_dict"
MARKS = (("main.0.weight", "main.1.running_mean"), ("convTr1.weight", "batchNorm1.running_mean"))
"""Names that a generator has in each of its layouts; a discriminator has no batch norm so early."""
NAMED_LAYER = re.compile(r"(convTr|batchNorm)([1-9][0-9]{0,2})\.")
COUNTER = "num_batches_tracked"
MOST_DOUBLINGS = 20
State = dict[str, Tensor]


def matches(content: Content) -> bool:
    """Tell whether the file is such a generator, or holds one."""
    return _generator(content.tree) is not None


def read(content: Content) -> Imported:
    """Convert the networks; all sizes are read off names and shapes.

    Raises:
        CheckpointError: A tensor is missing, unknown, of another shape or type.
    """
    path, tree = content.path, content.tree
    generator = _generator(tree)
    if generator is None:
        raise refuse(path, "holds no DCGAN generator")
    states = {"generator": _converted(path, generator)}
    nested = generator is not tree
    if nested and DISCRIMINATOR in tree:
        if not is_state(tree[DISCRIMINATOR]):
            raise refuse(path, f"`{DISCRIMINATOR}` is not a state dict")
        states["discriminator"] = _converted(path, tree[DISCRIMINATOR])
    made = {f"{net}.{name}": "no batches counted" for net, state in states.items() for name in _count(state)}
    states["generator_ema"] = {name: tensor.clone() for name, tensor in states["generator"].items()}
    made |= {f"generator_ema.{name}": f"copy of generator.{name}" for name in states["generator_ema"]}
    tensors = {f"{net}.{name}": tensor for net, state in states.items() for name, tensor in state.items()}
    absent = () if "discriminator" in states else ("discriminator",)
    spec = _spec(path, states)
    check_whole(path, spec, tensors, absent)
    return Imported(
        format=FORMAT,
        spec=spec,
        tensors=tensors,
        skipped=_skipped(tree) if nested else {},
        made=made,
        absent=absent,
        notes=("the file holds no averaged generator: the raw one stands in for it",),
    )


def _generator(tree: Any) -> Any:
    """Return the state dict of the generator: the file itself or a part of it, or None."""
    parts: list[Any] = [tree, tree.get(GENERATOR) if isinstance(tree, Mapping) else None]
    for part in parts:
        if is_state(part):
            names = unprefixed(part)
            if any(all(name in names for name in marks) for marks in MARKS):
                return part
    return None


def _converted(path: Path, state: Mapping[str, Tensor]) -> State:
    """Return a network's tensors under our names, weights in float32.

    Raises:
        CheckpointError: Two names mean one layer, or a tensor is of an unfit type.
    """
    converted = {}
    for name, tensor in unprefixed(state).items():
        ours = NAMED_LAYER.sub(_numbered, name, count=1)
        if ours in converted:
            raise refuse(path, f"holds two tensors for {ours}", list(state))
        whole = ours.endswith(COUNTER) and tensor.dtype is torch.int64
        converted[ours] = tensor.detach() if whole else as_float32(path, name, tensor)
    return converted


def _numbered(match: re.Match[str]) -> str:
    """Return the place of a layer in the sequence of convolution, batch norm and ReLU, thrice a stage."""
    return f"main.{3 * (int(match[2]) - 1) + (match[1] == 'batchNorm')}."


def _count(state: State) -> list[str]:
    """Add the counters that files of early PyTorch versions lack, and return their names."""
    norms = [name.removesuffix("running_mean") for name in state if name.endswith(".running_mean")]
    missing = [f"{norm}{COUNTER}" for norm in norms if f"{norm}{COUNTER}" not in state]
    state |= {name: torch.zeros((), dtype=torch.int64) for name in missing}
    return missing


def _spec(path: Path, states: Mapping[str, State]) -> DCGANSpec:
    """Infer sizes from shapes; the width of a discriminator that is absent is taken to be the generator's.

    Raises:
        CheckpointError: They are those of no network that can be built.
    """
    generator, discriminator = states["generator"], states.get("discriminator")
    layers = next(n for n in count() if f"main.{3 * n}.weight" not in generator)
    last = generator[f"main.{3 * (layers - 1)}.weight"]
    try:
        g_ch, channels = last.shape[:2]
        d_ch = g_ch if discriminator is None else discriminator["main.0.weight"].shape[0]
        sizes = {
            "resolution": 4 << min(layers - 1, MOST_DOUBLINGS),
            "channels": channels,
            "z_dim": generator["main.0.weight"].shape[0],
            "g_ch": g_ch,
            "d_ch": d_ch,
        }
    except (KeyError, IndexError, ValueError) as error:
        raise refuse(path, f"has names or shapes of no DCGAN: {error}", list(generator)) from None
    spec: DCGANSpec = spec_of(path, DCGANSpec, sizes)
    return spec


def _skipped(tree: Mapping[str, Any]) -> dict[str, str]:
    """Return why each other entry of the file is left out."""
    return {
        str(name): "optimiser state, which weights do not need" if "optimizer" in str(name) else "no network"
        for name in tree
        if name not in (GENERATOR, DISCRIMINATOR)
    }
