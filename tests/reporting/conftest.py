from __future__ import annotations

from pathlib import Path

import pytest

from graftgan.reporting.facts import Facts, read_facts
from reporting.synthetic import build


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    return build(tmp_path / "in")


@pytest.fixture
def facts(inputs: dict[str, Path]) -> Facts:
    return read_facts(inputs)
