"""A manifest that anybody wrote is a bank's, or is refused with the file's name and a remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graftgan.bank.manifest import NAME, Manifest, read_manifest
from graftgan.contract import canonical_json, digest_text
from graftgan.errors import CheckpointError
from tests.bank.banks import add_bare, bare

ODD = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text(), max_size=2)
QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    bank = bare(tmp_path_factory.mktemp("bank") / "bank")
    add_bare(bank, "one", 1)
    return dict(json.loads((bank.folder / NAME).read_text()))


def sealed(values: dict[str, Any]) -> str:
    """Return a manifest as a bank writes it, with a digest that fits what stands in it."""
    plain = {key: value for key, value in values.items() if key != "sha256"}
    try:
        seal = digest_text(canonical_json(plain))
    except ValueError:
        seal = "0" * 64
    return json.dumps({**plain, "sha256": seal}, sort_keys=True, indent=2, ensure_ascii=False) + "\n"


def read_or_refused(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder)
    except CheckpointError as error:
        assert NAME in error.message and error.remedy
        return None


def test_the_seal_of_a_good_one_fits(tmp_path: Path, good: dict[str, Any]) -> None:
    (tmp_path / NAME).write_text(sealed(good))
    found = read_or_refused(tmp_path)
    assert found is not None and found.to_dict() == good


@QUICK
@given(raw=st.binary() | st.text(alphabet='{}[]:,"0123456789.eE-truefalsnl \n').map(str.encode))
def test_any_bytes_are_no_bank(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / NAME).write_bytes(raw)
    assert read_or_refused(tmp_path) is None


@QUICK
@given(data=st.data(), value=ODD)
def test_any_value_at_any_place_is_taken_or_refused(
    tmp_path: Path, good: dict[str, Any], data: st.DataObject, value: object
) -> None:
    values: Any = json.loads(json.dumps(good))
    place = values
    while True:
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    (tmp_path / NAME).write_bytes(sealed(values).encode("utf-8", "surrogatepass"))
    found = read_or_refused(tmp_path)
    if found is not None:
        found.write(tmp_path / "again")
        assert read_manifest(tmp_path / "again") == found
