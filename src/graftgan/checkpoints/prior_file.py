"""The prior of a model beside a file that has no place for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from graftgan.contract import atomic_path
from graftgan.gans.prior import PREFIX, Prior

SUFFIX = ".prior.npz"


def beside(prior: Prior | None, model: Path) -> tuple[str, ...]:
    """Write the prior of a model beside its file, or remove one of another model there; see `write_prior`.

    To be called just before the model is put in place.
    """
    if prior is not None:
        return (write_prior(prior, model),)
    target = model.with_name(model.name + SUFFIX)
    if target.exists():
        model.unlink(missing_ok=True)
        target.unlink()
    return ()


def write_prior(prior: Prior, beside: Path) -> str:
    """Write a prior's tensors as arrays beside a file; of a mixture, weights, means, eigenvectors and so on.

    An earlier file goes before the earlier prior does: who dies in between leaves no model, rather than one
    beside the prior of another.

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
        beside.unlink(missing_ok=True)
    return f"The model takes z from its own prior, {target.name}: {prior.recipe}."
