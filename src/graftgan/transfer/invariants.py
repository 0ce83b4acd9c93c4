"""Proof that a run left alone what its method keeps: digests before the first step and after the last."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graftgan.errors import GraftganError
from graftgan.gans.base import Gan
from graftgan.gans.folding import MARK
from graftgan.gans.patch_heads import is_patch_head

AVERAGE = "w_avg"
"""A buffer that follows the mapping whatever moves."""
FOLLOWING = frozenset({
    "u0", "sv0", "weight_u", "weight_v", "stored_mean", "stored_var", "running_mean", "running_var",
    "num_batches_tracked", "magnitude_ema",
})  # fmt: skip
"""Buffers that follow what passes through a layer, unless the layer is `frozen`."""
SHOWN = 3


@dataclass(frozen=True)
class Kept:
    """A tensor that must stay.

    Attributes:
        digest: SHA-256 of its type, its shape and its bytes.
        shape: Its shape.
        parameter: Whether it is a parameter and no buffer.
        stored: Whether checkpoints hold it under this name, as those of parametrised weights are folded.
    """

    digest: str
    shape: tuple[int, ...]
    parameter: bool
    stored: bool


@dataclass(frozen=True)
class Fixed:
    """What of G and of D a run must not change, as it is before the first step.

    These are the parameters without gradients, and all buffers but those that follow training: `w_avg`, and
    the statistics and spectral norms of layers that are not frozen. What of G is fixed is fixed in its
    average too, to the same bits, since G then starts as its average.

    Attributes:
        tensors: What must stay, by name: ``generator.NAME`` or ``discriminator.NAME``.
    """

    tensors: Mapping[str, Kept]

    @classmethod
    def of(cls, gan: Gan) -> Fixed:
        """Take the digests, once a method was applied and G's statistics were frozen or not."""
        networks: dict[str, nn.Module] = {"generator": gan.generator, "discriminator": gan.discriminator}
        found = {}
        for network, module in networks.items():
            stored = {name for name in module.state_dict() if MARK not in name}
            for name, tensor in _steady(module):
                parameter = isinstance(tensor, nn.Parameter)
                shape = tuple(tensor.shape)
                found[f"{network}.{name}"] = Kept(digest(tensor), shape, parameter, name in stored)
        return cls(found)

    @property
    def sha256(self) -> str | None:
        """Digest of all of it with its names, None where nothing is fixed."""
        lines = [f"{name} {kept.digest}\n" for name, kept in sorted(self.tensors.items())]
        return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else None

    def facts(self) -> dict[str, Any]:
        """Return the entry `invariant` of a model's facts: parameters that stayed, and the digest of all."""
        counts = {
            network: sum(
                math.prod(kept.shape)
                for name, kept in self.tensors.items()
                if kept.parameter and name.startswith(f"{network}.")
            )
            for network in ("generator", "discriminator")
        }
        return {"frozen_parameters": counts, "frozen_sha256": self.sha256}

    def check(self, gan: Gan, best: Mapping[str, Tensor], method: str) -> None:
        """Compare the networks after the last step, before they are folded, and the best checkpoint.

        Args:
            gan: The networks.
            best: The best checkpoint's tensors, as `gan_tensors` gives them.
            method: What fixes them, for the message.

        Raises:
            GraftganError: Something moved that the method fixes, or is not there any more.
        """
        now = {
            f"{network}.{name}": tensor
            for network in ("generator", "discriminator", "generator_ema")
            for name, tensor in _all(getattr(gan, network))
        }
        of_average = {
            f"generator_ema.{name.removeprefix('generator.')}": kept
            for name, kept in self.tensors.items()
            if name.startswith("generator.")
        }
        expected = {**self.tensors, **of_average}
        stored = {name: kept for name, kept in expected.items() if kept.stored}
        _refuse(_changed(expected, now), "after the last step", method)
        _refuse(_changed(stored, best), "in the best checkpoint", method)

    def check_source(self, base: Gan, method: str) -> None:
        """Compare what was fixed with the file that the run started from.

        Parameters alone are compared: where G is trained as a whole, its buffers need not be its average's.
        Of another shape are tables that got classes before the first step.

        Args:
            base: Networks as the file has them.
            method: As for :meth:`check`.

        Raises:
            GraftganError: Something had changed before the first step.
        """
        source = {"generator": base.generator_ema, "discriminator": base.discriminator}
        held = {
            f"{network}.{name}": parameter
            for network, module in source.items()
            if network not in base.fresh
            for name, parameter in module.named_parameters()
        }
        expected = {_acts_on(name): kept for name, kept in self.tensors.items() if kept.parameter}
        alike = {n: k for n, k in expected.items() if n in held and k.shape == tuple(held[n].shape)}
        _refuse(_changed(alike, held), "before the first step", method)


def digest(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's type, shape and values, wherever and however it lies in memory."""
    plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    head = f"{tensor.dtype} {list(tensor.shape)} ".encode()
    found = hashlib.sha256(head)
    found.update(plain.numpy().data)
    return found.hexdigest()


def displacement(source: nn.Module, prefix: str, tensors: Mapping[str, Tensor]) -> float | None:
    """Return how far a network moved, ``|theta - source| / |source|`` over all parameters that both have.

    Args:
        source: The network as it was.
        prefix: What the names of its tensors begin with.
        tensors: A checkpoint; tensors of another shape than the source's do not count.

    Returns:
        None where they have nothing in common.
    """
    moved, whole = 0.0, 0.0
    for name, parameter in source.named_parameters():
        after, before = tensors.get(prefix + name), parameter.detach().double().cpu()
        if after is not None and after.shape == before.shape:
            moved += float((after.double().cpu() - before).square().sum())
            whole += float(before.square().sum())
    return math.sqrt(moved / whole) if whole else None


def _all(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()


def _steady(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what stays; patch heads are left out, whose anchors a prior draws anew."""
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad and not is_patch_head(name):
            yield name, parameter
    for name, buffer in network.named_buffers():
        owner, _, last = name.rpartition(".")
        follows = last in FOLLOWING and not getattr(network.get_submodule(owner), "frozen", False)
        if last != AVERAGE and not follows and not is_patch_head(name):
            yield name, buffer


def _acts_on(name: str) -> str:
    """Return the name that a parametrised weight's original has in a plain network."""
    before, mark, after = name.partition(MARK)
    return before + after.removesuffix(".original") if mark else name


def _changed(expected: Mapping[str, Kept], found: Mapping[str, Tensor]) -> list[str]:
    return [n for n, kept in sorted(expected.items()) if n not in found or digest(found[n]) != kept.digest]


def _refuse(moved: Iterable[str], when: str, method: str) -> None:
    names = list(moved)
    if not names:
        return
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    raise GraftganError(
        f"{', '.join(names[:SHOWN])}{more} changed, which {method} fixes: other bits {when}",
        "report this as a bug, with the settings of the run",
    )
