"""Names, versions and places of files that lead elsewhere, from people and from a server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml

from graftgan.cli import cli
from graftgan.config import Track
from graftgan.errors import CheckpointError, ConfigError, Ending, TryAgain
from graftgan.registry import MlflowRegistry
from graftgan.registry_answers import fetching
from graftgan.tracking import Connection
from graftgan.versions import fetched, table
from tracking.strangers import Stranger, stranger

NO_MODELS = (
    "/../x", "/toys/../../x", "/toys/..", "/..@champion", "/toys@../x", "/toys/1/../../y",
    "/toys@champion/../..", "/.@champion", "/%2e%2e/1", "/a\nb/1", "/a\u2028b/1", "/toys\x00/1",
    "/toys/1\n", "/toys/-1", "/toys/1 or 1=1", "/toys/" + "9" * 5000, "/" + "x" * 5000, "/", "//",
    "//evil/toys/1", "/toys/", "/toys@", "/toys/1?x=1", "/toys/1#x", "/toys' or name = 'x/1",
    "/toys\\..\\x/1", "/toys:1",
)  # fmt: skip
ELSEWHERE = ("runs:/abc/model", "file:///etc", "file:../../etc", "mlflow-artifacts:/0/x", "dbfs:/x")


@pytest.fixture
def server(place: Path) -> Iterator[Stranger]:
    """A server of one package, which lies about it as a test says."""
    with stranger() as told:
        told.listings = {
            "": [("MLmodel", False), ("artifacts", True)],
            "artifacts": [("package", True)],
            "artifacts/package": [("model.json", False)],
        }
        (place / "work").mkdir()
        track = {"uri": told.uri, "artifacts": str(place / "shared"), "timeout_s": 10.0}
        (place / "params.yaml").write_text(yaml.safe_dump({"track": track}))
        (place / "secret").write_text("old")
        yield told


@pytest.fixture(params=["serve", "gallery"])
def refused(
    request: pytest.FixtureRequest, server: Stranger, place: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Return what calls a command with a model and returns how it ended, having written nowhere."""

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model that had to be refused was loaded")

    scratch = place / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setattr(mlflow.pyfunc, "load_model", never)
    monkeypatch.setattr("graftgan.gallery.load_package", never)

    def call(model: str) -> Ending:
        before = contents(place)
        with pytest.raises(Ending) as caught:
            cli([request.param, model, "--params", str(place / "params.yaml")], standalone_mode=False)
        assert contents(place) == before, "something was written or left"
        assert len(str(caught.value)) < 1000 and "\n" not in caught.value.message
        return caught.value

    return call


def contents(folder: Path) -> Mapping[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_server_s_model_is_fetched_where_nothing_is_wrong(server: Stranger, place: Path) -> None:
    registry = MlflowRegistry(Connection(Track(uri=server.uri, artifacts=str(place / "shared"))), run=str)
    for model in ("toys", "toys@champion", "models:/toys/1"):
        with fetched(registry, model) as (folder, title):
            assert (folder / "model.json").read_bytes() == b"new" and title == "toys, version 1"
    server.place = "models:/m-1"
    server.model_place = (place / "shared" / "1").as_uri()
    (place / "shared" / "1" / "artifacts" / "package").mkdir(parents=True)
    with fetched(registry, "toys") as (folder, _):
        assert folder.is_dir() and place / "shared" not in folder.parents


@pytest.mark.parametrize("model", NO_MODELS, ids=lambda model: repr(model[:24]))
def test_what_is_no_name_is_refused_before_a_server_is_asked(
    refused: Any, server: Stranger, model: str
) -> None:
    error = refused(f"models:{model}")
    assert isinstance(error, ConfigError) and error.exit_code == 2 and error.remedy
    assert not [path for path in server.asked if "model" in path.removeprefix("/api/2.0/mlflow")]


@pytest.mark.parametrize("model", ELSEWHERE)
def test_addresses_of_other_kinds_are_refused(refused: Any, server: Stranger, model: str) -> None:
    assert isinstance(refused(model), ConfigError)
    assert not [path for path in server.asked if "artifacts" in path]


@pytest.mark.parametrize(
    "version", ["../../1", "1/../../x", "-1", "0", "", "latest", "1\n2", "²", "9" * 5000]
)
def test_versions_that_a_server_makes_up_are_refused(refused: Any, server: Stranger, version: str) -> None:
    server.version["version"] = version
    assert isinstance(refused("models:/toys/1"), CheckpointError)
    server.version["version"] = "1"
    server.model["aliases"][0]["version"] = version
    assert isinstance(refused("models:/toys@champion"), CheckpointError)


@pytest.mark.parametrize("name", ["../../x", "other", "", "toys\n", "TOYS"])
def test_another_model_than_was_asked_for_is_refused(refused: Any, server: Stranger, name: str) -> None:
    server.version["name"] = name
    assert isinstance(refused("models:/toys/1"), CheckpointError)


@pytest.mark.parametrize(
    "where",
    [
        "file:///etc", "/etc", "../../etc", "", ".", "file:///proc/self/environ", "file://host/etc",
        "file:secret", "file:///%2e%2e/etc", "runs:/abc/model", "models:/toys/1", "models:/../x",
        "models:/m-1", "mlflow-artifacts:/../../x", "mlflow-artifacts:/%2e%2e/x", "s3://bucket/../x",
        "s3://bucket/a\nb", "http://x/y",
    ],
)  # fmt: skip
def test_places_that_lead_elsewhere_are_refused(refused: Any, server: Stranger, where: str) -> None:
    server.place = where
    error = refused("models:/toys/1")
    assert isinstance(error, CheckpointError) and error.exit_code == 5 and error.remedy
    assert not [path for path in server.asked if "mlflow-artifacts" in path]


@pytest.mark.parametrize(
    "name", ["../out", "/tmp/out", "a/../../../out", "..", "%2e%2e/out", "%252e%252e/out", "file:///etc/x"]
)  # fmt: skip
@pytest.mark.parametrize("is_dir", [False, True], ids=["file", "folder"])
def test_listings_that_lead_out_of_the_folder_are_refused(
    refused: Any, server: Stranger, name: str, is_dir: bool
) -> None:
    server.listings[""].append((name, is_dir))
    assert isinstance(refused("models:/toys/1"), CheckpointError)
    server.listings[""].pop()
    server.listings["artifacts/package"].append((name, is_dir))
    assert isinstance(refused("models:/toys/1"), CheckpointError)


def test_a_listing_without_end_is_given_up(refused: Any, server: Stranger) -> None:
    server.everywhere = [("d", True)]
    server.listings[""].append(("d", True))
    assert isinstance(refused("models:/toys/1"), CheckpointError | TryAgain)


@pytest.mark.parametrize("name", ["a\nb", "a\x00b", "..\\out", "\u202eb"])
def test_odd_names_in_a_listing_stay_in_the_folder(server: Stranger, place: Path, name: str) -> None:
    server.listings["artifacts/package"].append((name, False))
    registry = MlflowRegistry(Connection(Track(uri=server.uri, artifacts=str(place / "shared"))), run=str)
    version = registry.version("toys", "1")
    before = contents(place)
    found = registry.download(version, place / "work" / "in")
    assert {path.parent for path in found.iterdir()} == {found} and len(list(found.iterdir())) == 2
    outside = {name: body for name, body in contents(place).items() if not name.startswith("work/in/")}
    assert outside == before


@pytest.mark.parametrize("answer", [5, {"a": 1}, ["x"]], ids=str)
def test_answers_of_another_shape_are_no_riddle(refused: Any, server: Stranger, answer: Any) -> None:
    server.place = answer
    assert isinstance(refused("models:/toys/1"), TryAgain)
    server.version["name"] = answer
    assert isinstance(refused("models:/toys/1"), TryAgain)


def test_reasons_of_a_stranger_give_no_orders_to_a_terminal(server: Stranger, place: Path) -> None:
    server.version["tags"] = [{"key": "graftgan.reason", "value": "good\n   2  champion\x1b[2J"}]
    registry = MlflowRegistry(Connection(Track(uri=server.uri, artifacts=str(place / "shared"))), run=str)
    (line,) = table(registry, "toys")
    assert "good" in line and line.isprintable()


def test_a_folder_that_is_still_written_to_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a refused answer, when MLflow's threads still write what was asked for before it."""
    remove, lost = shutil.rmtree, []

    def losing(folder: Path, ignore_errors: bool) -> None:
        lost.append(folder)
        if len(lost) > 2:
            remove(folder, ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", losing)
    with pytest.raises(CheckpointError, match="refused"), fetching() as scratch:
        (scratch / "part").touch()
        raise CheckpointError("refused", "ask")
    assert len(lost) == 3 and not scratch.exists()
