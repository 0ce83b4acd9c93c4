from __future__ import annotations

import pickle

import pytest

from graftgan import errors

CODES = {
    "GraftganError": 1,
    "ConfigError": 2,
    "ProtocolMismatch": 2,
    "DataError": 3,
    "MissingInput": 4,
    "CheckpointError": 5,
    "TryAgain": 75,
    "Interrupted": 143,
}


def test_each_failure_has_the_exit_code_of_the_contract() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, BaseException)]
    assert {kind.__name__: kind.exit_code for kind in kinds if kind is not errors.Ending} == CODES
    assert all(issubclass(kind, errors.Ending) for kind in kinds)
    failures = {kind.__name__ for kind in kinds if issubclass(kind, Exception)}
    assert failures == {kind.__name__ for kind in kinds if issubclass(kind, errors.GraftganError)}
    assert failures == CODES.keys() - {"Interrupted"}


def test_the_remedy_stands_on_its_own_line() -> None:
    assert str(errors.DataError("a.png is cut off", "remove it")) == "a.png is cut off\n  fix: remove it"
    assert str(errors.DataError("a.png is cut off")) == "a.png is cut off"


@pytest.mark.parametrize("name", CODES)
def test_errors_cross_processes_whole(name: str) -> None:
    error = getattr(errors, name)("what", "how")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.message, copy.remedy) == (type(error), "what", "how")
    assert copy.exit_code == CODES[name]
