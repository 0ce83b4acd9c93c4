"""Notes of final failures in a real S3 server, for clusters whose workspace ends with the pod."""

from __future__ import annotations

import json

import pytest

from graftgan import kfp_retry, remote_client
from graftgan.errors import ConfigError, DataError, TryAgain
from graftgan.kfp_retry import NOTES, Attempts
from stores.services import Seaweed

INPUT = json.dumps({"inputs": {"parameterValues": {"config_json": "{}"}}})
RUN = {"KFP_RUN_ID": "run-1", NOTES: "s3://team/pipelines/failures"}


def test_a_final_failure_is_known_to_the_next_pod(bucket: Seaweed) -> None:
    first = Attempts.of("rank", INPUT, RUN)
    with pytest.raises(DataError), first.counted():
        raise DataError("the zip is cut", "send it again")
    (key,) = bucket.keys("team")
    assert f"s3://team/{key}" == first.note and key.startswith("pipelines/failures/rank-")
    with pytest.raises(DataError, match="failed for good: the zip is cut") as caught:
        Attempts.of("rank", INPUT, RUN).check()
    assert caught.value.exit_code == DataError.exit_code
    Attempts.of("rank", INPUT, RUN | {"KFP_RUN_ID": "run-2"}).check()
    Attempts.of("evaluate", INPUT, RUN).check()


def test_a_note_loses_its_force_and_a_success_leaves_none(
    bucket: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = Attempts.of("rank", INPUT, RUN)
    with attempts.counted():
        pass
    assert bucket.keys("team") == []
    attempts.failed(TryAgain("full disk"))
    assert bucket.keys("team") == []
    attempts.failed(ConfigError("bad"))
    monkeypatch.setattr(kfp_retry, "VALID_S", 0.0)
    done = []
    with attempts.counted():
        done.append(True)
    assert done


def test_a_store_that_refuses_hides_no_failure_and_stops_no_attempt(
    bucket: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_client, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    attempts = Attempts.of("rank", INPUT, RUN)
    with pytest.raises(DataError, match="cut"), attempts.counted():
        raise DataError("the zip is cut")
    assert bucket.keys("team") == []
