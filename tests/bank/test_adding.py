"""The bank that a task goes into: made by the first, kept by the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from graftgan.bank.adding import Wanted, open_or_create, parse_share
from graftgan.errors import ConfigError


def test_the_first_call_makes_the_bank_and_later_ones_open_it(tmp_path: Path) -> None:
    made = open_or_create(tmp_path / "bank", Wanted("0.5", "resnet_6", 2))
    assert (made.spec.kind, made.spec.ngf, made.manifest.share) == ("resnet_6", 2, 0.5)
    for wanted in (Wanted(), Wanted("0.5"), Wanted(kind="resnet_6", ngf=2, norm="instance", dropout=False)):
        assert open_or_create(tmp_path / "bank", wanted).manifest == made.manifest


@pytest.mark.parametrize(
    ("wanted", "word"),
    [
        (Wanted("0.25"), r"--lambda is 0\.25, and .* has 0\.5"),
        (Wanted(ngf=4), "ngf is 4, and .* has 2"),
        (Wanted(norm="batch"), "norm is 'batch', and .* has 'instance'"),
    ],
)
def test_what_differs_from_the_bank_is_refused(tmp_path: Path, wanted: Wanted, word: str) -> None:
    open_or_create(tmp_path / "bank", Wanted("0.5", "resnet_6", 2))
    with pytest.raises(ConfigError, match=word):
        open_or_create(tmp_path / "bank", wanted)


def test_lambdas_are_read() -> None:
    assert parse_share("0.25") == 0.25
    assert parse_share("1") == 1
    assert parse_share("[0.5, 1]") == [0.5, 1]
    assert parse_share("{default: 0.25, model.1: 1}") == {"default": 0.25, "model.1": 1}
    for text in ("many", "true", "", "[1"):
        with pytest.raises(ConfigError, match="--lambda is"):
            parse_share(text)
