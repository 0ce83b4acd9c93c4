from __future__ import annotations

import pytest
from tracking.support import empty_store, place, store  # noqa: F401

from graftgan.transfer.auto import Rule, Rules

FEW = ("lora", "ewc", "l2_sp", "full")
MANY = ("gan_memory", "adafm", "scale_shift", "lora", "cdc", "full")


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules of `auto` in which other methods than `full` are best: those measured change with the zoo."""
    few = tuple(Rule(50, name, f"{name} with 25 images") for name in FEW)
    many = tuple(Rule(None, name, f"{name} with 1000 images") for name in MANY)
    monkeypatch.setattr("graftgan.transfer.auto.TABLES", (Rules(("stylegan2",), 3.0, (*few, *many)),))
