"""Writes a pix2pix or CycleGAN network in its public layout: a plain state dict as torch saves it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from graftgan.checkpoints.store import compare
from graftgan.errors import CheckpointError
from graftgan.gans.translation import TranslatorSpec, build_translator

PREFIX = "translator."


def write_translation(tensors: Mapping[str, Tensor], spec: TranslatorSpec, path: Path) -> None:
    """Write a network as ``<epoch>_net_G.pth`` files hold it.

    Args:
        tensors: ``translator.…`` as a reader gives them.
        spec: What the network is made of.
        path: File to write; an existing one is replaced.

    Raises:
        CheckpointError: The tensors are not those of the spec's network.
    """
    with torch.device("meta"):
        expected = build_translator(spec).state_dict()
    state = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    table = compare(state, expected)
    if not table.whole:
        raise CheckpointError(
            f"the tensors are not those of a {spec.kind} with {spec.norm} norm: {table}",
            "export the spec and the tensors of one import together",
        )
    torch.save({name: state[name].detach().cpu().clone() for name in expected}, path)
