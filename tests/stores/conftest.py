from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stores.faults import FaultProxy
from stores.services import REGION, Seaweed, Stack, stack_on


@pytest.fixture(scope="session")
def service_folder() -> Iterator[Path]:
    """A folder that the user `postgres` may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="graftgan-services-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def stack(service_folder: Path, seaweed: Seaweed) -> Iterator[Stack]:
    with stack_on(service_folder, seaweed) as running:
        yield running


@pytest.fixture(scope="session")
def seaweed(service_folder: Path) -> Iterator[Seaweed]:
    """The object store; those who need no MLflow take it alone."""
    server = Seaweed(service_folder / "store")
    try:
        server.start()
        server.client().create_bucket(Bucket="team")
        yield server
    finally:
        server.kill()


@pytest.fixture
def bucket(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Seaweed:
    """The object store, with everything that reaches it in the environment and the bucket `team` empty."""
    for key, value in seaweed.environment().items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    for key in seaweed.keys("team"):
        seaweed.client().delete_object(Bucket="team", Key=key)
    return seaweed


@pytest.fixture
def faulty(bucket: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy before the object store, and the environment that points to it."""
    proxy = FaultProxy(bucket.port)
    proxy.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    yield proxy
    proxy.kill()
