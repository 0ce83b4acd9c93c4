"""Commands that read from and write to s3:// addresses, on a real server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from pipeline.conftest import write_zoo
from stages.test_rank import Shelf

from graftgan import remote
from graftgan.checkpoints.catalogue import Catalogue
from graftgan.checkpoints.store import SPEC, WEIGHTS, read_tensors
from graftgan.cli import cli
from graftgan.contract import digest_path
from graftgan.errors import CheckpointError, ConfigError, GraftganError, MissingInput
from graftgan.params import resolve
from graftgan.places import cache_home
from graftgan.remote import push
from pipelines import submit, transfer
from stores.services import Seaweed


@pytest.fixture(autouse=True)
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_known", {})


@pytest.fixture
def zoo(bucket: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalogue with one source, here and at s3://team/zoo."""
    write_zoo(tmp_path / "zoo")
    push(tmp_path / "zoo", "s3://team/zoo")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "zoo"


def call(*arguments: str | Path) -> str:
    done = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*arguments: str | Path) -> GraftganError:
    error = CliRunner().invoke(cli, [str(a) for a in arguments]).exception
    assert isinstance(error, GraftganError), error
    return error


def test_what_is_pushed_is_pulled(zoo: Path, tmp_path: Path) -> None:
    assert "s3://team/copy: 3 objects" in call("store", "push", zoo, "s3://team/copy")
    call("store", "pull", "s3://team/copy", tmp_path / "back")
    assert digest_path(tmp_path / "back") == digest_path(zoo)
    call("store", "pull", "s3://team/copy/catalogue.yaml", tmp_path / "one.yaml")
    assert (tmp_path / "one.yaml").read_bytes() == (zoo / "catalogue.yaml").read_bytes()
    error = refused("store", "pull", "s3://team/copy", tmp_path / "back")
    assert isinstance(error, ConfigError) and "exists" in error.message
    assert isinstance(refused("store", "pull", "s3://team/nothing", tmp_path / "x"), MissingInput)
    assert isinstance(refused("store", "pull", zoo, tmp_path / "x"), ConfigError)


def test_a_catalogue_in_the_store_finds_its_checkpoints_there(zoo: Path) -> None:
    catalogue = Catalogue("s3://team/zoo/catalogue.yaml", cache_home())
    (source,) = catalogue.sources
    here = Catalogue(zoo / "catalogue.yaml")
    assert digest_path(catalogue.folder(source, cache_home())) == digest_path(
        here.folder(source, cache_home())
    )
    assert catalogue.load(source, cache_home()).spec == here.load(source, cache_home()).spec
    assert "tiny: whole" in call("source", "verify", "--catalogue", "s3://team/zoo/catalogue.yaml")


def test_an_entry_may_have_an_address_in_the_store(zoo: Path) -> None:
    (entry,) = yaml.safe_load((zoo / "catalogue.yaml").read_text())
    by_url = {k: v for k, v in entry.items() if k != "path"} | {"url": f"s3://team/zoo/tiny/{WEIGHTS}"}
    by_path = entry | {"name": "second", "path": "s3://team/zoo/tiny"}
    (zoo / "far.yaml").write_text(yaml.safe_dump([by_url, by_path]))
    found = call("source", "verify", "--catalogue", zoo / "far.yaml")
    assert "tiny: whole" in found and "second: whole" in found
    (zoo / "far.yaml").write_text(yaml.safe_dump([by_path | {"sha256": "0" * 64}]))
    error = refused("source", "verify", "--catalogue", zoo / "far.yaml")
    assert isinstance(error, CheckpointError) and "sha256" in error.message


def test_pictures_are_drawn_from_and_put_to_the_store(zoo: Path, bucket: Seaweed, tmp_path: Path) -> None:
    told = call("sample", "s3://team/zoo/tiny", "--seeds", "0-3", "--out", "s3://team/pictures/grid.png")
    assert "grid.png" in told and "/tmp" not in told
    call("sample", zoo / "tiny", "--seeds", "0-3", "--out", tmp_path / "grid.png")
    call("store", "pull", "s3://team/pictures/grid.png", tmp_path / "back.png")
    mine, theirs = (np.asarray(Image.open(tmp_path / name)) for name in ("grid.png", "back.png"))
    assert np.array_equal(mine, theirs)


def test_checkpoints_are_exported_to_and_imported_from_the_store(
    zoo: Path, bucket: Seaweed, tmp_path: Path
) -> None:
    call("source", "export", "s3://team/zoo/tiny", "--format", "rosinality", "--out", "s3://team/out/tiny.pt")
    told = call("source", "import", "s3://team/out/tiny.pt", "--out", "s3://team/more/twin")
    (entry,) = yaml.safe_load(told)
    assert entry["path"] == "s3://team/more/twin" and entry["name"] == "twin"
    assert {f"more/twin/{name}" for name in (WEIGHTS, SPEC, "card.json")} < set(bucket.keys("team"))
    twin = remote.local("s3://team/more/twin", cache_home())
    mine, theirs = read_tensors(zoo / "tiny" / WEIGHTS), read_tensors(twin / WEIGHTS)
    shared = [name for name in mine if name in theirs and name.startswith("generator_ema.")]
    assert len(shared) > 20 and all(mine[name].equal(theirs[name]) for name in shared)


def test_stages_write_to_this_machine_only(zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("{}")
    error = refused("prepare", "--out", "s3://team/out")
    assert isinstance(error, ConfigError) and "store push" in error.remedy
    assert not (tmp_path / "s3:").exists()


def test_a_pipeline_is_submitted_with_the_digests_of_what_is_in_the_store(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images.zip").write_bytes(b"images")
    push(tmp_path / "images.zip", "s3://team/images.zip")
    given = {
        "data": {"path": "s3://team/images.zip"}, "rank": {"catalogue": "s3://team/zoo/catalogue.yaml"}
    }  # fmt: skip
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(resolve(given, "test").model_dump(mode="json")))
    words = ["run", "transfer", "--host", "none", "--each-source"]
    arguments = transfer.submission(submit.parser().parse_args(words)).arguments
    assert arguments["data_digest"] == digest_path(tmp_path / "images.zip")
    assert arguments["catalogue_digest"] == digest_path(zoo / "catalogue.yaml")
    assert arguments["sources"] == [source.name for source in Catalogue(zoo / "catalogue.yaml").sources]
    assert submit.main(["digest", "s3://team/zoo"]) == 0
    assert capsys.readouterr().out.strip() == digest_path(zoo)
    assert submit.main(["digest", "s3://team/none"]) == 4


def test_a_ranking_reads_a_catalogue_and_its_sources_in_a_store(bucket: Seaweed, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    entries = yaml.safe_load((tmp_path / "catalogue.yaml").read_text())
    shelf.write([entry | ({"images": 1500} if entry["name"] == "near" else {}) for entry in entries])
    for name in ("near", "far", "catalogue.yaml"):
        push(tmp_path / name, f"s3://team/shelf/{name}")
    shelf.run(rank__catalogue="s3://team/shelf/catalogue.yaml")
    images = {row["name"]: row["training_images"] for row in shelf.record()["rows"]}
    assert images == {"near": 1500, "far": 0, "scratch": 0}
