"""The prior of a model beside a file that has no place for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from graftgan.contract import atomic_path
from graftgan.gans.prior import PREFIX, Prior

SUFFIX = ".prior.npz"


def beside(prior: Prior | None, model: Path) -> tuple[str, ...]:
    """Write the prior of a model beside its file, or remove one of another model there; see `write_prior`."""
    if prior is not None:
        return (write_prior(prior, model),)
    model.with_name(model.name + SUFFIX).unlink(missing_ok=True)
    return ()


def write_prior(prior: Prior, beside: Path) -> str:
    """Write a prior's tensors as arrays beside a file; of a mixture, weights, means, eigenvectors and so on.

    Args:
        prior: The model's prior.
        beside: The model's file; the new one is called like it, with ``.prior.npz`` behind.

    Returns:
        A sentence for the user: which file, and how latents are drawn.
    """
    target = beside.with_name(beside.name + SUFFIX)
    arrays: dict[str, Any] = {name.removeprefix(PREFIX): t.numpy() for name, t in prior.tensors().items()}
    with atomic_path(target) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)
    return f"The model takes z from its own prior, {target.name}: {prior.recipe}."
