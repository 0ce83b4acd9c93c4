"""A bank as it is registered: its folder, facts and card; loaded without executing anything of it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from graftgan.bank.store import LOCK, Bank
from graftgan.bank.tasks import exact, load_task
from graftgan.contract import read_json, write_json, write_text
from graftgan.data.decoding import DecodeOptions, decode
from graftgan.errors import CheckpointError
from graftgan.gans.base import to_uint8

SCHEMA = 1
KIND = "translation-bank"
BANK, FACTS, CARD = "bank", "model.json", "card.md"
# A larger image costs time and memory for detail that a task of its side does not see.
MAX_SIDES = 16
LEAST_MAX_PIXELS = 1024 * 1024
MAX_FILE_BYTES = 50_000_000


@dataclass
class BankPackage:
    """A loaded package.

    Attributes:
        bank: The bank.
        facts: Content of `model.json`.
    """

    bank: Bank
    facts: Mapping[str, Any]
    _networks: dict[str, nn.Module] = field(default_factory=dict, repr=False)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order in which they were learnt."""
        return tuple(task.name for task in self.bank.tasks)

    def max_pixels(self, task: str) -> int:
        """Return how many pixels an image for a task may have: 16 times its side each way, or 1,024 x 1,024.

        Raises:
            MissingInput: There is no such task.
        """
        return max(LEAST_MAX_PIXELS, (MAX_SIDES * self.bank.task(task).outputs.size_px) ** 2)

    def translate(self, task: str, image: bytes) -> NDArray[np.uint8]:
        """Translate one image file.

        Args:
            task: Name of the task.
            image: Bytes of an image file; its middle square is translated at the task's own side.

        Returns:
            uint8 [R, R, 3].

        Raises:
            MissingInput: There is no such task.
            BadImageError: The bytes are no image that can be read, or one of more than `max_pixels`.
            CheckpointError: A file of the bank is damaged.
        """
        side = self.bank.task(task).outputs.size_px
        about = self.facts["tasks"][task]
        options = DecodeOptions(
            side,
            self.bank.spec.in_channels,
            "crop",
            "lanczos",
            about["background"],
            self.max_pixels(task),
            MAX_FILE_BYTES,
        )
        pixels = torch.tensor(decode(image, options).pixels).permute(2, 0, 1)[None]
        network = self._networks.get(task) or load_task(self.bank, task)
        self._networks[task] = network
        with exact():
            made: NDArray[np.uint8] = to_uint8(network(pixels.float() / 127.5 - 1))[0]
        return made


def load_bank_package(folder: Path) -> BankPackage:
    """Load a package strictly.

    Raises:
        MissingInput: A file is absent.
        CheckpointError: It is not a package of a bank of this schema, or does not fit the bank.
    """
    facts = read_json(folder / FACTS)
    if not is_bank(facts) or facts.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{folder / FACTS} is not a bank's package of schema {SCHEMA}", "register the bank again"
        )
    bank = Bank(folder / BANK)
    names = [task.name for task in bank.tasks]
    if not isinstance(facts.get("tasks"), dict) or sorted(facts["tasks"]) != sorted(names):
        raise CheckpointError(
            f"{folder / FACTS} tells of other tasks than the bank", "register the bank again"
        )
    return BankPackage(bank, facts)


def is_bank(facts: object) -> bool:
    """Tell whether the content of a package's `model.json` is a bank's."""
    return isinstance(facts, dict) and facts.get("kind") == KIND


def write_bank_package(bank: Path, folder: Path, facts: Mapping[str, Any], card: str) -> None:
    """Write a package into an existing folder.

    Args:
        bank: Folder of the bank.
        folder: Where to write.
        facts: Content of `model.json` besides schema and kind.
        card: The model card, in Markdown.
    """
    shutil.copytree(bank, folder / BANK, ignore=shutil.ignore_patterns(LOCK))
    write_json(folder / FACTS, {"schema": SCHEMA, "kind": KIND, **facts})
    write_text(folder / CARD, card)
