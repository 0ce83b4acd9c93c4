from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graftgan.checkpoints.catalogue import Catalogue, Source
from graftgan.checkpoints.store import SPEC, WEIGHTS, save_gan
from graftgan.console import Plain
from graftgan.contract import digest_file, write_json
from graftgan.errors import CheckpointError, ConfigError, GraftganError, MissingInput, TryAgain
from graftgan.gans.base import build
from graftgan.gans.stylegan2 import StyleGAN2Spec

TINY = StyleGAN2Spec(resolution=32, z_dim=8, w_dim=8, mapping_layers=1, channel_base=128, channel_max=8)
SHA = "0" * 64


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A folder with one checkpoint, `near`."""
    (tmp_path / "shelf" / "near").mkdir(parents=True)
    save_gan(build(TINY, 1), tmp_path / "shelf" / "near")
    return tmp_path / "shelf"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def entry(shelf: Path, **changes: Any) -> dict[str, Any]:
    plain = {
        "name": "near",
        "path": "near",
        "sha256": digest_file(shelf / "near" / WEIGHTS),
        "resolution": 32,
    }
    return {key: value for key, value in {**plain, **changes}.items() if value is not None}


def written(shelf: Path, *entries: dict[str, Any]) -> Catalogue:
    path = shelf / "catalogue.yaml"
    path.write_text(yaml.safe_dump(list(entries)))
    return Catalogue(path)


def fails(kind: type[GraftganError], text: str, *entries: dict[str, Any], shelf: Path) -> str:
    with pytest.raises(kind, match=text) as error:
        written(shelf, *entries)
    assert "catalogue.yaml" in str(error.value)
    assert error.value.remedy
    return str(error.value)


# Reading the file


def test_a_source_is_selected_and_loaded(shelf: Path, cache: Path) -> None:
    catalogue = written(shelf, entry(shelf, title="Near", domain=["face"], kimg=12.5, licence="CC0-1.0"))
    (source,) = catalogue.select(["near"])
    assert (source.title, source.domain, source.kimg, source.licence) == ("Near", ["face"], 12.5, "CC0-1.0")
    assert catalogue.folder(source, cache) == shelf / "near"
    assert catalogue.spec(source, cache) == TINY
    loaded, expected = catalogue.load(source, cache), build(TINY, 1)
    for mine, other in zip(loaded.generator.parameters(), expected.generator.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert not cache.exists()


def test_sources_come_in_the_order_asked_for(shelf: Path) -> None:
    catalogue = written(shelf, entry(shelf), entry(shelf, name="far"), entry(shelf, name="mid"))
    assert [s.name for s in catalogue.select(None)] == ["near", "far", "mid"]
    assert [s.name for s in catalogue.select(["mid", "near"])] == ["mid", "near"]
    with pytest.raises(ConfigError, match="'farr' is not in") as error:
        catalogue.select(["near", "farr"])
    assert "near, far, mid" in error.value.remedy


def test_a_path_is_relative_to_the_catalogue_file(
    shelf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    catalogue = written(shelf, entry(shelf, path="../shelf/near"))
    assert catalogue.spec(catalogue.sources[0], cache) == TINY
    absolute = written(shelf, entry(shelf, path=str(shelf / "near")))
    assert absolute.spec(absolute.sources[0], cache) == TINY


def test_the_file_must_exist_and_be_readable(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none.yaml", "does not exist"), (tmp_path, "cannot be read")):
        with pytest.raises(MissingInput, match=why) as error:
            Catalogue(path)
        assert error.value.exit_code == 4
        assert error.value.remedy


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"- name: [", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"", "is not a list"),
        (b"near: {path: near}", "is not a list"),
        (b"- near", "entry 1"),
        (b"- !!python/object/apply:os.system [exit]", "is not YAML"),
    ],
)
def test_what_is_no_catalogue_is_refused(tmp_path: Path, text: bytes, why: str) -> None:
    path = tmp_path / "catalogue.yaml"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=why) as error:
        Catalogue(path)
    assert error.value.exit_code == 2
    assert str(path) in error.value.message


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"sha256": None}, "sha256"),
        ({"sha256": "abc"}, "sha256"),
        ({"sha256": "A" * 64}, "sha256"),
        ({"name": "Near One"}, "name"),
        ({"name": "../near"}, "name"),
        ({"name": "scratch"}, "reserved"),
        ({"resolution": None}, "resolution"),
        ({"resolution": "big"}, "resolution"),
        ({"licens": "CC0"}, "licens"),
        ({"format": "pickle"}, "format"),
        ({"url": "https://example.org/gan.safetensors"}, "either path or url"),
        ({"path": None}, "either path or url"),
        ({"path": None, "url": "http://example.org/gan.safetensors"}, "url"),
        ({"path": None, "url": "gan.safetensors"}, "url"),
    ],
)
def test_a_wrong_entry_is_named_by_number_and_key(shelf: Path, changes: dict[str, Any], why: str) -> None:
    message = fails(ConfigError, why, entry(shelf, name="other"), entry(shelf, **changes), shelf=shelf)
    assert "entry 2:" in message
    assert "  Value error" not in message


def test_names_must_differ(shelf: Path) -> None:
    fails(ConfigError, "near occurs twice", entry(shelf), entry(shelf, name="far"), entry(shelf), shelf=shelf)


# Checking the checkpoint


def test_another_digest_is_a_checkpoint_error(shelf: Path, cache: Path) -> None:
    catalogue = written(shelf, entry(shelf, sha256=SHA))
    for use in (catalogue.folder, catalogue.spec, catalogue.load):
        with pytest.raises(CheckpointError, match=f"not {SHA}") as error:
            use(catalogue.sources[0], cache)
        assert error.value.exit_code == 5
        assert "near" in error.value.message


def test_one_changed_bit_is_noticed(shelf: Path, cache: Path) -> None:
    catalogue = written(shelf, entry(shelf))
    weights = shelf / "near" / WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="sha256"):
        catalogue.load(catalogue.sources[0], cache)


def test_absent_weights_are_a_missing_input(shelf: Path, cache: Path) -> None:
    catalogue = written(shelf, entry(shelf, path="nowhere"))
    with pytest.raises(MissingInput, match="does not exist") as error:
        catalogue.load(catalogue.sources[0], cache)
    assert error.value.exit_code == 4


def test_an_absent_spec_is_a_missing_input(shelf: Path, cache: Path) -> None:
    catalogue = written(shelf, entry(shelf))
    (shelf / "near" / SPEC).unlink()
    with pytest.raises(MissingInput, match=SPEC):
        catalogue.load(catalogue.sources[0], cache)


def test_the_entry_must_tell_the_true_resolution(shelf: Path, cache: Path) -> None:
    catalogue = written(shelf, entry(shelf, resolution=64))
    for use in (catalogue.spec, catalogue.load):
        with pytest.raises(CheckpointError, match="images of 32 px, not 64"):
            use(catalogue.sources[0], cache)


# Fetching


def test_a_url_is_fetched_once_and_kept(shelf: Path, cache: Path) -> None:
    url = (shelf / "near" / WEIGHTS).as_uri()
    catalogue = written(shelf, entry(shelf, path=None, url=url))
    (source,) = catalogue.sources
    folder = catalogue.folder(source, cache)
    assert folder == cache / "sources" / source.sha256
    assert sorted(p.name for p in folder.iterdir()) == [WEIGHTS, SPEC]
    for name in (WEIGHTS, SPEC):
        (shelf / "near" / name).unlink()
    assert catalogue.load(source, cache).spec == TINY


def test_a_catalogue_in_a_store_names_no_file_of_this_machine(
    shelf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = (shelf / "near" / WEIGHTS).as_uri()
    written(shelf, entry(shelf, path=None, url=url))
    monkeypatch.setattr("graftgan.checkpoints.catalogue.local", lambda path, cache: shelf / "catalogue.yaml")
    with pytest.raises(ConfigError, match=r"source near: file://.* is a file of this machine"):
        Catalogue("s3://team/catalogue.yaml", cache)


def test_secrets_in_an_address_are_in_no_message(
    shelf: Path, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server answers with the wrong file, and then does not answer at all."""
    address = "https://me:pl4nted@127.0.0.1:9/gan.pkl?sig=pl4nted"
    catalogue = written(shelf, entry(shelf, path=None, url=address, format="public"))
    (source,) = catalogue.sources
    logging.getLogger("graftgan").propagate = True
    caplog.set_level(logging.INFO)
    caplog.handler.setFormatter(Plain())
    with pytest.raises(TryAgain, match="could not be fetched") as away:
        catalogue.folder(source, cache)
    monkeypatch.setattr(
        "graftgan.checkpoints.catalogue.download", lambda url, target: target.write_bytes(b"other")
    )
    with pytest.raises(CheckpointError, match="has sha256") as wrong:
        catalogue.folder(source, cache)
    for text in (caplog.text, str(away.value), str(wrong.value)):
        assert "https://127.0.0.1:9/gan.pkl?***" in text and "pl4nted" not in text


def test_a_fetched_file_with_another_digest_is_not_kept(shelf: Path, cache: Path) -> None:
    url = (shelf / "near" / WEIGHTS).as_uri()
    catalogue = written(shelf, entry(shelf, path=None, url=url, sha256=SHA))
    with pytest.raises(CheckpointError, match="sha256") as error:
        catalogue.folder(catalogue.sources[0], cache)
    assert url in error.value.message
    assert not list(cache.rglob(f"*{WEIGHTS}*"))


def test_a_kept_file_that_rots_is_noticed_and_the_remedy_works(shelf: Path, cache: Path) -> None:
    catalogue = written(shelf, entry(shelf, path=None, url=(shelf / "near" / WEIGHTS).as_uri()))
    (source,) = catalogue.sources
    kept = catalogue.folder(source, cache) / WEIGHTS
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="sha256") as error:
        catalogue.folder(source, cache)
    assert "delete the file" in error.value.remedy
    kept.unlink()
    assert catalogue.load(source, cache).spec == TINY


def test_a_fetched_spec_that_describes_no_network_is_not_kept(shelf: Path, cache: Path) -> None:
    (shelf / "near" / SPEC).write_text('{"resolution": 3')
    catalogue = written(shelf, entry(shelf, path=None, url=(shelf / "near" / WEIGHTS).as_uri()))
    with pytest.raises(CheckpointError):
        catalogue.load(catalogue.sources[0], cache)
    write_json(shelf / "near" / SPEC, TINY.to_dict())
    assert catalogue.load(catalogue.sources[0], cache).spec == TINY


def test_nothing_at_the_address_is_a_missing_input(shelf: Path, cache: Path) -> None:
    url = (shelf / "absent" / WEIGHTS).as_uri()
    catalogue = written(shelf, entry(shelf, path=None, url=url))
    with pytest.raises(MissingInput, match="absent"):
        catalogue.folder(catalogue.sources[0], cache)
    assert not list(cache.rglob("*.safetensors"))


ENTRY = {"name": "near", "path": "near", "sha256": SHA, "resolution": 32}
ODD = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text(), max_size=2)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary() | st.text(alphabet="[]{}:,-&*!|>'\"#%@ \n\t0123456789.e").map(str.encode))
def test_any_bytes_are_a_catalogue_or_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "c.yaml").write_bytes(raw)
    try:
        found = Catalogue(tmp_path / "c.yaml").sources
    except ConfigError as error:
        assert "c.yaml" in error.message and error.remedy
    else:
        assert found == []


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(sorted(Source.model_fields)), value=ODD)
def test_any_value_of_an_entry_is_taken_or_refused(tmp_path: Path, key: str, value: object) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump([ENTRY | {key: value}]))
    try:
        (found,) = Catalogue(tmp_path / "c.yaml").sources
    except ConfigError as error:
        assert "c.yaml" in error.message and "entry 1" in error.message
    else:
        assert Source.model_validate(found.model_dump()) == found


@pytest.mark.parametrize("text", ["- name: 2001-13-01", "[" * 5000, f"- {'9' * 5000}"])
def test_values_that_cannot_be_are_no_yaml(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml is not YAML"):
        Catalogue(tmp_path / "c.yaml")
