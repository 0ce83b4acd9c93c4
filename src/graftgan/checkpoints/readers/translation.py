"""Reads pix2pix and CycleGAN networks: a plain state dict, one network a file.

Kind, norm and dropout are read off the names. Files from before PyTorch 0.4 hold running statistics of
instance norms, which nothing uses; they are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from graftgan.checkpoints.imported import Content, Imported, refuse
from graftgan.checkpoints.readers.strict import as_float32, is_state, unprefixed
from graftgan.checkpoints.store import compare
from graftgan.errors import ConfigError
from graftgan.gans.translation import KINDS, TranslatorSpec, build_translator

FORMAT = "translation"
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
PATCH_CONVS = ("model.0.weight", "model.2.weight", "model.5.weight", "model.8.weight", "model.11.weight")
PATCH_KERNEL = (4, 4)
BLOCK = "conv_block"
UNET = "model.model."
LEVEL = "model.3."
State = dict[str, Tensor]


def matches(content: Content) -> bool:
    """Tell whether the file is a state dict of one of the kinds."""
    return is_state(content.tree) and _kind_of(unprefixed(content.tree)) is not None


def read(content: Content) -> Imported:
    """Convert the network to tensors ``translator.…``.

    Raises:
        CheckpointError: A tensor is missing, unknown or of the wrong shape.
    """
    path, state = content.path, _state(content.path, content.tree)
    try:
        spec = _spec(state)
    except KeyError as error:
        raise refuse(path, f"lacks {error}, which its layout has", list(state)) from None
    except (IndexError, ValueError) as error:
        raise refuse(path, f"has shapes of no pix2pix or CycleGAN network: {error}", list(state)) from error
    except ConfigError as error:
        raise refuse(path, f"describes a network that cannot be built: {error.message}") from error
    with torch.device("meta"):
        expected = build_translator(spec).state_dict()
    skipped = _instance_statistics(state, expected) if spec.norm == "instance" else {}
    kept = {name: tensor for name, tensor in state.items() if name not in skipped}
    made = _counters(kept, expected)
    kept |= {name: torch.zeros((), dtype=torch.int64) for name in made}
    table = compare(kept, expected)
    if not table.whole:
        raise refuse(path, f"does not fit a {spec.kind} with {spec.norm} norm: {table}")
    return Imported(
        format=FORMAT,
        spec=spec,
        tensors={f"translator.{name}": kept[name] for name in expected},
        skipped=skipped,
        made={f"translator.{name}": why for name, why in made.items()},
        notes=_notes(spec),
    )


def _state(path: Path, tree: Mapping[str, Tensor]) -> State:
    """Return the tensors under our names, weights in float32 and counters as they are."""
    return {
        name: as_float32(path, name, tensor) if tensor.is_floating_point() else tensor.detach().contiguous()
        for name, tensor in unprefixed(tree).items()
    }


def _kind_of(state: Mapping[str, Tensor]) -> str | None:
    """Tell `resnet`, `unet` or `patchgan` from names and shapes, or None."""
    if "model.1.weight" in state and any(BLOCK in name for name in state):
        return "resnet"
    if f"{UNET}0.weight" in state and f"{UNET}1.model.1.weight" in state:
        return "unet"
    patches = all(name in state and state[name].shape[2:] == PATCH_KERNEL for name in PATCH_CONVS)
    return "patchgan" if patches else None


def _spec(state: State) -> TranslatorSpec:
    kind = _kind_of(state)
    if kind == "resnet":
        return _resnet_spec(state)
    return _unet_spec(state) if kind == "unet" else _patch_spec(state)


def _resnet_spec(state: State) -> TranslatorSpec:
    """Read off sizes; dropout shows in the place of a block's second convolution."""
    blocks = {name.split(".")[1] for name in state if BLOCK in name}
    first = f"model.{min(blocks, key=int)}.{BLOCK}"
    ngf, in_channels = state["model.1.weight"].shape[:2]
    last = f"model.{17 + len(blocks)}.weight"
    return TranslatorSpec(
        kind=f"resnet_{len(blocks)}",
        in_channels=in_channels,
        out_channels=state[last].shape[0],
        ngf=ngf,
        norm=_norm(state, "model.2"),
        dropout=not _is_conv(state, f"{first}.5.weight") and _is_conv(state, f"{first}.6.weight"),
    )


def _unet_spec(state: State) -> TranslatorSpec:
    """Read off sizes; the halvings are counted by how deep the names go."""
    depth, prefix = 1, f"{UNET}1."
    while f"{prefix}model.1.weight" in state:
        depth, prefix = depth + 1, f"{prefix}{LEVEL}"
    kinds = [kind for kind, halvings in KINDS.items() if kind.startswith("unet") and halvings == depth]
    ngf, in_channels = state[f"{UNET}0.weight"].shape[:2]
    return TranslatorSpec(
        kind=kinds[0] if kinds else f"unet_{2**depth}",
        in_channels=in_channels,
        out_channels=state[f"{UNET}3.weight"].shape[1],
        ngf=ngf,
        norm=_norm(state, f"{UNET}1.model.2"),
    )


def _patch_spec(state: State) -> TranslatorSpec:
    ndf, in_channels = state["model.0.weight"].shape[:2]
    return TranslatorSpec(
        kind="patchgan", in_channels=in_channels, out_channels=1, ndf=ndf, norm=_norm(state, "model.3")
    )


def _norm(state: State, name: str) -> str:
    return "batch" if f"{name}.weight" in state else "instance"


def _is_conv(state: State, name: str) -> bool:
    return name in state and state[name].ndim == 4


def _instance_statistics(state: State, expected: Mapping[str, Tensor]) -> dict[str, str]:
    why = "running statistics of an instance norm (PyTorch before 0.4), which nothing uses"
    return {name: why for name in state if name.endswith(STATISTICS) and name not in expected}


def _counters(state: State, expected: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the batch norms' counters that files from before PyTorch 0.4.1 lack."""
    why = "set to 0: the file is older than this counter, which does not change what the network computes"
    return {name: why for name in expected if name.endswith("num_batches_tracked") and name not in state}


def _notes(spec: TranslatorSpec) -> tuple[str, ...]:
    notes = [
        "a network that turns images into images: it can be exported, not ranked or fine-tuned as a source"
    ]
    if spec.kind.startswith("unet"):
        notes.append("dropout leaves no trace in a U-Net's file: the network is built without")
    return tuple(notes)
