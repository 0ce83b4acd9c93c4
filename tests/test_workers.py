from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from graftgan.cli import cli
from graftgan.config import Params
from graftgan.errors import ConfigError, DataError, Interrupted
from graftgan.stages.together import check_workers
from graftgan.workers import _first_failure, _kind, count, joined, number, refuse_several


def params(**finetune: Any) -> Params:
    return Params.model_validate({"finetune": finetune})


def test_without_torchrun_there_is_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("RANK", "3")
    assert (count(), number()) == (1, 0)
    with joined("no device"):
        pass


def test_the_environment_tells_how_many_and_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert (count(), number()) == (4, 3)
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(ConfigError, match="WORLD_SIZE is 'many'"):
        count()


def test_what_one_process_does_is_refused_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    refuse_several("this")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="this is done by one process, but WORLD_SIZE is 2"):
        refuse_several("this")


@pytest.mark.parametrize("words", [["lifelong", "run"], ["lifelong", "create", "--kfp-executor-input", "{}"]])
def test_a_list_of_tasks_is_not_learnt_twice_at_once(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    caught = CliRunner().invoke(cli, words).exception
    assert isinstance(caught, ConfigError) and "WORLD_SIZE is 2" in caught.message


@pytest.mark.parametrize(
    ("finetune", "workers", "words"),
    [
        ({"batch": 10}, 4, ("finetune.batch is 10", "WORLD_SIZE", "of 4", "multiple of 4")),
        ({"batch": 6, "path_length_weight": 2.0}, 2, ("path_length_weight", "3 images", "multiple of 4")),
        ({"method": "cdc"}, 2, ("finetune.cdc.patches", "WORLD_SIZE", "start one process")),
        ({"method": "bsa"}, 2, ("finetune.method=bsa", "WORLD_SIZE", "start one process")),
    ],
)
def test_what_cannot_be_shared_names_both_keys(
    finetune: dict[str, Any], workers: int, words: tuple[str, ...]
) -> None:
    check_workers(params(**finetune), 1)
    with pytest.raises(ConfigError) as caught:
        check_workers(params(**finetune), workers)
    assert all(word in str(caught.value) for word in words), caught.value


def test_even_shares_are_taken_and_compiled_networks_are_not() -> None:
    check_workers(params(batch=16, path_length_weight=2.0), 8)
    compiled = Params.model_validate({"runtime": {"compile": True}})
    with pytest.raises(ConfigError, match=r"runtime.compile .* WORLD_SIZE"):
        check_workers(compiled, 2)


def test_several_workers_name_no_single_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert _kind("cpu", 2) == "cpu"
    with pytest.raises(ConfigError, match=r"runtime\.device=cuda:0"):
        _kind("cuda:0", 2)


class Store:
    """The one method of a `torch.distributed.Store` by which a failure is told, on a dictionary."""

    def __init__(self) -> None:
        self.kept = ""

    def compare_set(self, key: str, expected: str, value: str) -> bytes:
        self.kept = self.kept or value
        return self.kept.encode()


def test_the_first_failure_is_everyones(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    monkeypatch.setattr(torch.distributed.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    assert _first_failure(DataError("cut off", "pack again"), 1) is None
    assert json.loads(store.kept)["kind"] == "DataError"
    told = _first_failure(Interrupted("stopped by SIGTERM"), 0)
    assert isinstance(told, DataError)
    assert (told.message, told.remedy) == ("worker 1: cut off", "pack again")
    assert _first_failure(DataError("also mine"), 2) is None
