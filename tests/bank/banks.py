"""Small banks for tests: ResNet-6 of 2 feature maps, or layers without any network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from graftgan.bank.layers import LayerShape, free_widths
from graftgan.bank.manifest import Layer, Manifest, Outputs
from graftgan.bank.store import Bank
from graftgan.bank.tasks import begin, finish
from graftgan.gans.translation import TranslatorSpec

TINY = TranslatorSpec(kind="resnet_6", ngf=2)
TINY_BATCH = TranslatorSpec(kind="resnet_6", ngf=2, norm="batch")
TWO_LAYERS = (
    LayerShape("model.1", "conv", 3, 4, 3, 1, 1, 0),
    LayerShape("model.2", "deconv", 4, 3, 2, 2, 0, 0),
)
SIZE_PX = 16


def shake(network: nn.Module, seed: int = 0) -> nn.Module:
    """Move everything that trains, as if the network had been trained."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    return network


def grown(
    folder: Path,
    inits: Sequence[str],
    spec: TranslatorSpec = TINY,
    share: float = 0.25,
    backgrounds: Sequence[str | None] = (),
) -> Bank:
    """Make a bank with tasks t1, t2, ... of the given starts, each moved from its start."""
    bank = Bank.create(folder, spec, share)
    for number, init in enumerate(inits, 1):
        begun = begin(bank, f"t{number}", init, seed=number)
        shake(begun.generator, number)
        background = backgrounds[number - 1] if backgrounds else None
        finish(bank, begun, size_px=SIZE_PX, background=background)
    return bank


def bare(folder: Path, share: float = 0.5) -> Bank:
    """Make a bank of two made-up layers; it can store tasks but not run them."""
    widths = free_widths(TWO_LAYERS, share)
    layers = tuple(Layer(**vars(s), d=s.d, n_u=widths[s.name]) for s in TWO_LAYERS)
    Manifest(arch=TINY.kind, spec=TINY.to_dict(), share=share, lambda_last=1.0, layers=layers).write(folder)
    return Bank(folder)


def own_rows(bank: Bank, seed: int) -> dict[str, Tensor]:
    """Draw the rows that the next task adds."""
    rng = torch.Generator().manual_seed(seed)
    number = len(bank.tasks) + 1
    counts = {s.name: s.rows_after(number) - s.rows_after(number - 1) for s in bank.layers}
    return {s.name: torch.randn(counts[s.name], s.d, generator=rng) for s in bank.layers}


def add_bare(bank: Bank, name: str, seed: int = 0) -> None:
    """Add a made-up task."""
    tensors = {"A/model.1": torch.full((2, 2), float(seed)), "bias/model.1": torch.zeros(4)}
    outputs = Outputs(sha256="0" * 64, size_px=16, environment={})
    facts = {"data_fingerprint": "", "config_hash": "", "init": "random", "outputs": outputs, "scores": {}}
    bank.append(name, own_rows(bank, seed), tensors, facts)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a bank but its lock."""
    files = (f for f in folder.rglob("*") if f.is_file() and f.name != ".lock")
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}
