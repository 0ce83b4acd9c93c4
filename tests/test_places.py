from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import graftgan
from graftgan.places import code_digest
from graftgan.stages.prior import INVERTING


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, to be edited."""
    source = Path(graftgan.__file__).parent
    copy = Path(shutil.copytree(source, tmp_path / "graftgan", ignore=shutil.ignore_patterns("*.pyc")))
    monkeypatch.setattr(graftgan, "__file__", str(copy / "__init__.py"))
    return copy


def digests() -> tuple[str, str]:
    """Return the digests of all code and of what decides an inversion, read anew."""
    return code_digest.__wrapped__(), code_digest.__wrapped__(*INVERTING)


@pytest.mark.parametrize(
    ("file", "decides"),
    [
        ("transfer/inversion.py", True),
        ("gans/stylegan2/generator.py", True),
        ("gans/base.py", True),
        ("transfer/inversion.pyx", False),
        ("transfer/invariants.py", False),
        ("stages/report.py", False),
    ],
)
def test_a_digest_of_some_code_changes_with_that_code_alone(package: Path, file: str, decides: bool) -> None:
    everything, inverting = digests()
    with (package / file).open("a") as edited:
        edited.write("# changed\n")
    assert (digests()[1] != inverting) is decides
    assert (digests()[0] != everything) is file.endswith(".py")


def test_whatever_decides_an_inversion_is_there(package: Path) -> None:
    assert all((package / part).exists() for part in INVERTING)
