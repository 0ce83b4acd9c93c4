"""Adapters whose matrices are sums of few outer products, some of which earlier adapters hold.

GAN Memory's compression (Cong et al. 2020, arXiv:2006.07543): a matrix of task t is
``U_{<=t} diag(s_t) V_{<=t}^T``, where the bases U, V of the tasks before are in their files. For a matrix
``NAME`` a file has its components, ``NAME.left`` [O, n], ``NAME.right`` [I, n] and ``NAME.scale`` [n], and
``NAME.earlier`` [m], coefficients on all m components of the files before, in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from graftgan.checkpoints.adapters import Adapter
from graftgan.errors import CheckpointError

LEFT, RIGHT, SCALE, EARLIER = ".left", ".right", ".scale", ".earlier"
SUFFIXES = (LEFT, RIGHT, SCALE, EARLIER)


def factorised(adapter: Adapter) -> list[str]:
    """Return the names of the matrices that an adapter holds as factors."""
    return sorted(name.removesuffix(SCALE) for name in adapter.tensors if name.endswith(SCALE))


def bases(name: str, adapters: Sequence[Adapter]) -> tuple[Tensor, Tensor] | None:
    """Return the components of a matrix in all adapters, [O, m] and [I, m], or None where there are none."""
    holding = [adapter.tensors for adapter in adapters if name + SCALE in adapter.tensors]
    if not holding:
        return None
    left, right = (torch.cat([tensors[name + part] for tensors in holding], dim=1) for part in (LEFT, RIGHT))
    return left, right


def coefficients(name: str, adapter: Adapter) -> Tensor:
    """Return an adapter's coefficients on all components of a matrix, the earlier ones' first."""
    return torch.cat([adapter.tensors[name + EARLIER], adapter.tensors[name + SCALE]])


def expand(left: Tensor, scale: Tensor, right: Tensor) -> Tensor:
    """Return ``left diag(scale) right^T``, [O, I].

    Summed one component after another: a matrix product's last bits depend on where tensors lie in memory.
    """
    total = left.new_zeros(len(left), len(right))
    for u, s, v in zip(left.T, scale, right.T, strict=True):
        total += (u * s)[:, None] * v
    return total


def resolve(adapter: Adapter, earlier: Sequence[Adapter], origin: str) -> Adapter:
    """Return the adapter with whole matrices in place of factors; one without any is returned as it is.

    Args:
        adapter: The adapter.
        earlier: The adapters that it names in `after`, in that order.
        origin: What to call it.

    Raises:
        CheckpointError: Its factors do not fit each other or those of the adapters before.
    """
    names = factorised(adapter)
    if not names:
        return adapter
    whole = {n: t for n, t in adapter.tensors.items() if not n.endswith(SUFFIXES)}
    for name in names:
        try:
            found = bases(name, [*earlier, adapter])
            assert found is not None
            left, right = found
            matrix = expand(left, coefficients(name, adapter), right)
        except (KeyError, ValueError, RuntimeError, IndexError, TypeError) as error:
            raise CheckpointError(
                f"{origin}: the factors of {name} do not fit: {error}",
                "give the adapters of the tasks before in their order",
            ) from None
        whole[name] = matrix[:, :, None, None]
    return replace(adapter, tensors=whole, after=())
