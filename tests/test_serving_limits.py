"""The limit of a request's time, as the environment gives it."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from graftgan.cli import cli
from graftgan.errors import ConfigError
from graftgan.serving import GraftganModel
from graftgan.serving_bank import BankModel
from graftgan.serving_limits import TIMEOUT, TIMEOUT_S, in_time, timeout_s

ODD = ("fifty", "50s", "5,0", "nan", "inf", "-inf", "0", "-1", "1e300", "9" * 5000, "\n1\x00")


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value[:8]))
def test_a_time_that_cannot_be_used_is_refused_in_few_words(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", {TIMEOUT: value})
    with pytest.raises(ConfigError, match=TIMEOUT) as caught:
        timeout_s()
    assert "number of seconds" in caught.value.remedy and len(str(caught.value)) < 300


@pytest.mark.parametrize(("value", "limit_s"), [("2.5", 2.5), (" 7 ", 7), ("1e2", 100), ("", TIMEOUT_S)])
def test_a_time_is_taken(value: str, limit_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT, value)
    assert timeout_s() == limit_s
    with in_time(threading.Lock()) as check:
        check()


@pytest.mark.parametrize("model", [GraftganModel(), BankModel()], ids=["generator", "bank"])
def test_a_model_does_not_load_under_a_time_that_cannot_be_used(
    model: GraftganModel | BankModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TIMEOUT, "fifty")
    with pytest.raises(ConfigError, match=f"{TIMEOUT} is 'fifty'"):
        model.load_context(SimpleNamespace(artifacts={"package": str(tmp_path)}))


def test_serve_ends_at_once_under_a_time_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(TIMEOUT, "fifty")
    (tmp_path / "MLmodel").touch()
    with pytest.raises(ConfigError, match=TIMEOUT) as caught:
        cli(["serve", "."], standalone_mode=False)
    assert caught.value.exit_code == 2
