"""The package folder that is registered: weights, facts, card and samples; equal runs give equal bytes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from graftgan.checkpoints.store import load_network, read_prior, read_tensors
from graftgan.contract import read_json, write_json, write_text
from graftgan.errors import CheckpointError
from graftgan.gans.base import Generator, build, sample
from graftgan.gans.prior import PREFIX
from graftgan.gans.spec import GanSpec

SCHEMA = 1
WEIGHTS, FACTS, CARD, SAMPLES = "model.safetensors", "model.json", "card.md", "samples.png"
_EMA = "generator_ema."


@dataclass
class Package:
    """A loaded package.

    Attributes:
        generator: The generator, on the CPU unless moved.
        facts: Content of `model.json`.
    """

    generator: Generator
    facts: Mapping[str, Any]

    @property
    def spec(self) -> GanSpec:
        """Sizes of the network."""
        return self.generator.spec

    @property
    def truncation_default(self) -> float:
        """Truncation to use where none is asked for."""
        return float(self.facts["truncation_default"])

    def to(self, device: torch.device | str) -> Package:
        """Move the generator and return self."""
        self.generator.to(device)
        return self

    def sample(
        self, n: int, seed: int, truncation_psi: float | None = None, label: int | None = None
    ) -> NDArray[np.uint8]:
        """Sample `n` images, uint8 [n, R, R, channels], as `graftgan.gans.base.sample` does."""
        psi = self.truncation_default if truncation_psi is None else truncation_psi
        return sample(self.generator, n, seed, psi, label)


def load_package(folder: Path) -> Package:
    """Load a package strictly; nothing in it is executed.

    Raises:
        MissingInput: If a file is absent.
        CheckpointError: If it is not a package of this schema, is damaged, or does not fit its spec.
    """
    facts = read_json(folder / FACTS)
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{folder / FACTS} is not a package of schema {SCHEMA}", "register the model again"
        )
    generator = build(GanSpec.from_dict(facts["spec"]), seed=0).generator_ema
    weights = folder / WEIGHTS
    tensors, generator.prior = read_prior(generator.spec, read_tensors(weights), weights)
    load_network(generator, tensors, weights)
    return Package(generator, facts)


def write_package(model: Path, folder: Path, facts: Mapping[str, Any], card: str) -> None:
    """Write the package of a checkpoint folder into an existing folder.

    Args:
        model: Checkpoint folder of a run, with `gan.safetensors` and `samples.png`.
        folder: Where to write.
        facts: Content of `model.json` besides the schema.
        card: The model card, in Markdown.

    Raises:
        MissingInput: If a file of the checkpoint is absent.
        CheckpointError: If the weights are damaged or hold no averaged generator.
    """
    tensors = read_tensors(model / "gan.safetensors")
    averaged = {name.removeprefix(_EMA): t for name, t in sorted(tensors.items()) if name.startswith(_EMA)}
    if not averaged:
        raise CheckpointError(
            f"{model / 'gan.safetensors'} holds no averaged generator", "run `graftgan finetune`"
        )
    # In the order of names, as the file always had them.
    prior = {name: t for name, t in sorted(tensors.items()) if name.startswith(PREFIX)}
    save_file(averaged | prior, folder / WEIGHTS)
    write_json(folder / FACTS, {"schema": SCHEMA, **facts})
    write_text(folder / CARD, card)
    if (model / SAMPLES).is_file():
        shutil.copyfile(model / SAMPLES, folder / SAMPLES)
