"""Banks of tests do not wait for the disk: a killed process, unlike a lost machine, loses nothing by that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from graftgan import contract


@pytest.fixture(autouse=True, scope="package")
def quick_disk() -> Iterator[None]:
    """Leave out fsync."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "_sync", lambda _path: None)
        yield
