"""The test services themselves: real, guarded by credentials, and able to die and come back."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from stores import services
from stores.faults import FaultProxy
from stores.services import Postgres, Seaweed, Stack


def test_the_object_store_refuses_a_wrong_secret(seaweed: Seaweed) -> None:
    with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|AccessDenied|InvalidAccessKeyId"):
        seaweed.client(secret="wrong").list_buckets()


def test_the_proxy_fails_its_share_and_passes_the_rest_unchanged(seaweed: Seaweed) -> None:
    proxy = FaultProxy(seaweed.port)
    proxy.start()
    try:
        client = seaweed.client(proxy.url)
        client.put_object(Bucket="team", Key="a b/ü.bin", Body=bytes(range(256)) * 100)
        assert client.get_object(Bucket="team", Key="a b/ü.bin")["Body"].read() == bytes(range(256)) * 100
        proxy.reset()
        proxy.rate, proxy.kinds = 0.3, ("500",)
        for _ in range(40):
            client.head_object(Bucket="team", Key="a b/ü.bin")
        assert 5 < proxy.failed["500"] < 30 and proxy.requests == 40 + proxy.failed["500"]
    finally:
        proxy.kill()


def test_a_killed_database_comes_back_with_what_it_had_below_a_running_server(stack: Stack) -> None:
    from mlflow import MlflowClient

    experiment = MlflowClient(stack.mlflow.uri).create_experiment("survivor")
    stack.postgres.kill()
    assert stack.postgres.query("select 1") == []
    stack.postgres.start()
    assert MlflowClient(stack.mlflow.uri).get_experiment(experiment).name == "survivor"
    rows = stack.postgres.query("select name from experiments where name = 'survivor'")
    assert rows == [("survivor",)], "the experiment is in PostgreSQL, not in a file"


def test_a_missing_tool_fails_in_ci_and_skips_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "IN_CI", True)
    with pytest.raises(pytest.fail.Exception, match="no-such-tool is missing: install nothing"):
        services.tool("no-such-tool", "nothing")
    monkeypatch.setattr(services, "IN_CI", False)
    with pytest.raises(pytest.skip.Exception, match="no-such-tool"):
        services.tool("no-such-tool", "nothing")


def test_the_database_asks_for_its_password(stack: Stack) -> None:
    stranger = Postgres.__new__(Postgres)
    stranger.port, stranger.password = stack.postgres.port, "wrong"
    assert stranger.query("select 1") == []
    assert stack.postgres.query("select 1") == [(1,)]
