"""Reads `GAN_stability` checkpoints: a dict of `generator`, `discriminator`, `generator_test` and optimisers.

Key names are ours but for the prefix ``module.`` of a network that was trained in parallel. A state dict of
the generator alone, as other projects cut it out, is read too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from graftgan.checkpoints.imported import Content, Imported, refuse
from graftgan.checkpoints.readers.strict import (
    PARALLEL_PREFIX,
    as_float32,
    check_whole,
    is_state,
    spec_of,
    unprefixed,
)
from graftgan.gans.resnet_gan import LAYOUTS, ResnetGanSpec

FORMAT = "gan_stability"
SECTIONS = {"generator": "generator", "generator_test": "generator_ema", "discriminator": "discriminator"}
"""Name of a network in the file -> ours; `generator_test` is the moving average."""
REQUIRED = ("embedding.weight", "fc.weight", "conv_img.weight")
Shapes = Mapping[str, tuple[int, ...]]


def matches(content: Content) -> bool:
    """Tell whether the file holds a generator of this kind, in a section or alone."""
    tree = content.tree
    if not isinstance(tree, dict):
        return False
    return any(_is_generator(part) for part in (tree.get("generator"), tree.get("generator_test"), tree))


def read(content: Content) -> Imported:
    """Convert the networks; the variant and all sizes are read off names and shapes.

    Raises:
        CheckpointError: A tensor is missing, unknown or of the wrong shape, or no layout fits.
    """
    path, tree = content.path, content.tree
    sections = {"generator": tree} if _is_generator(tree) else tree
    states = {
        ours: _state(path, theirs, sections[theirs])
        for theirs, ours in SECTIONS.items()
        if theirs in sections
    }
    spec = _spec(
        path, {ours: {k: tuple(t.shape) for k, t in state.items()} for ours, state in states.items()}
    )
    absent = () if "discriminator" in states else ("discriminator",)
    notes, made = _notes(tree, states), {}
    for ours, other in (("generator", "generator_ema"), ("generator_ema", "generator")):
        if ours not in states:
            states[ours] = {name: tensor.clone() for name, tensor in states[other].items()}
            made = {f"{ours}.{name}": f"copy of {other}.{name}" for name in states[ours]}
    tensors = {f"{ours}.{name}": tensor for ours, state in states.items() for name, tensor in state.items()}
    check_whole(path, spec, tensors, absent)
    return Imported(
        format=FORMAT,
        spec=spec,
        tensors=tensors,
        skipped={} if sections is not tree else _skipped(tree),
        made=made,
        absent=absent,
        notes=notes,
    )


def _is_generator(part: object) -> bool:
    if not isinstance(part, dict):
        return False
    names = {str(name).removeprefix(PARALLEL_PREFIX) for name in part}
    return all(name in names for name in REQUIRED) and any(name.startswith("resnet") for name in names)


def _state(path: Path, section: str, part: Any) -> dict[str, Tensor]:
    """Return a network's tensors in float32 under our names."""
    if not is_state(part):
        raise refuse(path, f"`{section}` is not a state dict")
    return {name: as_float32(path, f"{section}.{name}", tensor) for name, tensor in unprefixed(part).items()}


def _spec(path: Path, shapes: Mapping[str, Shapes]) -> ResnetGanSpec:
    """Infer variant and sizes from the shapes of each network.

    Raises:
        CheckpointError: They are those of no network that can be built.
    """
    generator = shapes.get("generator_ema") or shapes["generator"]
    try:
        values = _generator_sizes(generator)
        if "discriminator" in shapes:
            deepest = shapes["discriminator"]["fc.weight"][1] // _base(generator) ** 2
            values["nfilter_max_d"] = deepest // LAYOUTS[values["variant"]].stem
        spec: ResnetGanSpec = spec_of(path, ResnetGanSpec, values)
        return spec
    except KeyError as error:
        raise refuse(
            path, f"lacks {error}, which every layout of GAN_stability has", list(generator)
        ) from None
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise refuse(path, f"has shapes of no layout of GAN_stability: {error}", list(generator)) from error


def _generator_sizes(shapes: Shapes) -> dict[str, Any]:
    labels, embed_dim = shapes["embedding.weight"]
    channels, nfilter = shapes["conv_img.weight"][:2]
    variant = _variant(shapes)
    layout = LAYOUTS[variant]
    stages = _stages(shapes, variant)
    widest = _stem(shapes) // layout.stem
    return {
        "variant": variant,
        "resolution": _base(shapes) << (stages - 1 + layout.outer),
        "channels": channels,
        "z_dim": shapes["fc.weight"][1] - embed_dim,
        "classes": labels if labels > 1 else 0,
        "embed_dim": embed_dim,
        "nfilter": nfilter,
        "nfilter_max": widest,
        "nfilter_max_d": widest,
        "stages": stages,
    }


def _variant(shapes: Shapes) -> str:
    """Name the layout; `resnet3` and `resnet4` differ in whether their last block changes the width."""
    if "resnet.0.conv_0.weight" in shapes:
        return "resnet"
    if "resnet_0_1.conv_0.weight" in shapes:
        return "resnet2"
    last = LAYOUTS["resnet4"].block_name(_stages(shapes, "resnet4") - 1, 0)
    return "resnet3" if f"{last}.conv_s.weight" in shapes else "resnet4"


def _stages(shapes: Shapes, variant: str) -> int:
    stage = 0
    while f"{LAYOUTS[variant].block_name(stage, 0)}.conv_0.weight" in shapes:
        stage += 1
    return stage


def _stem(shapes: Shapes) -> int:
    """Return the width at the smallest size, which the first block takes."""
    first = "resnet.0" if "resnet.0.conv_0.weight" in shapes else "resnet_0_0"
    return shapes[f"{first}.conv_0.weight"][1]


def _base(shapes: Shapes) -> int:
    """Return the side of the smallest feature map: the linear layer has ``stem * base^2`` outputs."""
    return math.isqrt(shapes["fc.weight"][0] // _stem(shapes))


def _skipped(tree: Mapping[str, Any]) -> dict[str, str]:
    reasons = {}
    for name, value in tree.items():
        if name in SECTIONS:
            continue
        if "optimizer" in str(name):
            reasons[str(name)] = "optimiser state, which weights do not need"
        elif isinstance(value, (Tensor, dict, list, tuple)):
            reasons[str(name)] = "not a network of this format"
    return reasons


def _notes(tree: Mapping[str, Any], states: Mapping[str, object]) -> tuple[str, ...]:
    notes = []
    if isinstance(tree.get("it"), int):
        notes.append(f"trained for {tree['it']} iterations")
    if "generator_ema" not in states:
        notes.append("the file holds no averaged generator: the raw one stands in for it")
    if "generator" not in states:
        notes.append("the file holds the averaged generator alone: training starts from it")
    return tuple(notes)
