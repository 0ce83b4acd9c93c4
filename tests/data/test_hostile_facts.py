"""A packed image set whose facts or manifest somebody changed is opened, or refused with a remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stages.models import write_dataset

from graftgan.data.dataset import FACTS_FILE, MANIFEST_FILE, ImageSet
from graftgan.errors import MissingInput

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ODD = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.lists(st.text())


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "dataset"
    write_dataset(folder, np.zeros((4, 32, 32, 3), np.uint8))
    return folder


def opened_or_refused(folder: Path) -> ImageSet | None:
    try:
        return ImageSet.open(folder)
    except MissingInput as error:
        assert str(folder) in error.message and error.remedy
        return None


@QUICK
@given(value=ODD | st.dictionaries(st.text(), st.text()))
def test_any_value_instead_of_the_facts_is_refused(packed: Path, tmp_path: Path, value: object) -> None:
    folder = Path(shutil.copytree(packed, tmp_path / "set", dirs_exist_ok=True))
    (folder / FACTS_FILE).write_bytes(json.dumps(value).encode())
    assert opened_or_refused(folder) is None


@QUICK
@given(key=st.sampled_from(["resolution", "channels"]), value=ODD)
def test_a_size_that_the_pixels_do_not_have_is_refused(
    packed: Path, tmp_path: Path, key: str, value: Any
) -> None:
    folder = Path(shutil.copytree(packed, tmp_path / "set", dirs_exist_ok=True))
    facts = json.loads((packed / FACTS_FILE).read_text())
    (folder / FACTS_FILE).write_text(json.dumps(facts | {key: value}))
    assert (opened_or_refused(folder) is None) == (value != facts[key])


@QUICK
@given(place=st.integers(0), bits=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_manifest_is_opened_or_refused(
    packed: Path, tmp_path: Path, place: int, bits: int, cut: bool
) -> None:
    folder = Path(shutil.copytree(packed, tmp_path / "set", dirs_exist_ok=True))
    raw = bytearray((packed / MANIFEST_FILE).read_bytes())
    place %= len(raw)
    raw[place] ^= bits
    (folder / MANIFEST_FILE).write_bytes(raw[:place] if cut else raw)
    found = opened_or_refused(folder)
    assert found is None or len(found.manifest) == 4
