from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from graftgan.checkpoints.adapters import Adapter, Library, check_base, read_adapter, write_adapter
from graftgan.checkpoints.store import WEIGHTS, save_gan
from graftgan.contract import digest_file
from graftgan.errors import CheckpointError, ConfigError, MissingInput
from graftgan.gans.base import build
from graftgan.gans.laws import TruncatedNormal
from graftgan.gans.stylegan2 import StyleGAN2Spec

TINY = StyleGAN2Spec(resolution=32, z_dim=8, w_dim=8, mapping_layers=1, channel_base=128, channel_max=8)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    save_gan(build(TINY, 0), tmp_path / "source")
    return tmp_path / "source"


def adapter(base: Path, value: float = 1.0) -> Adapter:
    tensors = {"a.gamma": torch.full((2, 3), value), "b.beta": torch.arange(4.0)}
    return Adapter(digest_file(base / WEIGHTS), "lora", {"adapter_rank": 2}, TINY.to_dict(), tensors)


def same(a: Adapter, b: Adapter) -> bool:
    tensors = all(torch.equal(a.tensors[n], b.tensors[n]) for n in a.tensors)
    return (
        replace(a, tensors={}) == replace(b, tensors={}) and a.tensors.keys() == b.tensors.keys() and tensors
    )


def test_it_comes_back_as_it_was_and_the_file_has_one_key_of_metadata(base: Path, tmp_path: Path) -> None:
    file = tmp_path / "x" / "adapter.safetensors"
    write_adapter(adapter(base), file)
    assert same(read_adapter(file), adapter(base))
    assert adapter(base).values == 10
    header = file.read_bytes()
    assert header.count(b"__metadata__") == 1 and b'"adapter"' in header
    assert load_file(file)["b.beta"].dtype is torch.float32
    again = tmp_path / "again.safetensors"
    write_adapter(read_adapter(file), again)
    assert again.read_bytes() == header
    assert file.stat().st_mode & 0o777 == 0o644


def test_its_origin_comes_back_and_older_files_have_none(base: Path, tmp_path: Path) -> None:
    origin = {"seed": 3, "code_version": "0.1.0", "source": "mixture", "licence": "CC0-1.0"}
    write_adapter(replace(adapter(base), origin=origin), tmp_path / "new")
    assert read_adapter(tmp_path / "new").origin == origin
    about = {"base_sha256": "a", "method": "lora", "settings": {}, "spec": {}}
    save_file({"a": torch.ones(1)}, tmp_path / "old", {"adapter": json.dumps(about)})
    assert read_adapter(tmp_path / "old").origin == {}
    save_file({"a": torch.ones(1)}, tmp_path / "bad", {"adapter": json.dumps({**about, "origin": 3})})
    with pytest.raises(CheckpointError, match="is not an adapter file"):
        read_adapter(tmp_path / "bad")


def test_what_is_no_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not an adapter file"):
        read_adapter(base / WEIGHTS)
    with pytest.raises(MissingInput, match="does not exist"):
        read_adapter(tmp_path / "absent")
    for metadata in ("{}", "[]", "no", '{"base_sha256":1,"method":"a","settings":{},"spec":{}}'):
        save_file({"a": torch.ones(1)}, tmp_path / "bad", {"adapter": metadata})
        with pytest.raises(CheckpointError, match="is not an adapter file"):
            read_adapter(tmp_path / "bad")
    (tmp_path / "cut").write_bytes((base / WEIGHTS).read_bytes()[:100])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        read_adapter(tmp_path / "cut")
    write_adapter(adapter(base, float("nan")), tmp_path / "nan")
    with pytest.raises(CheckpointError, match=r"not finite in a\.gamma"):
        read_adapter(tmp_path / "nan")


def test_another_base_is_refused_by_its_digest(base: Path, tmp_path: Path) -> None:
    check_base(adapter(base), base, "it")
    (tmp_path / "other").mkdir()
    save_gan(build(TINY, 1), tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"it was trained on a base with sha256 .* has ") as error:
        check_base(adapter(base), tmp_path / "other", "it")
    assert digest_file(base / WEIGHTS) in error.value.message
    assert digest_file(tmp_path / "other" / WEIGHTS) in error.value.message
    with pytest.raises(MissingInput, match=WEIGHTS):
        check_base(adapter(base), tmp_path, "it")


def test_a_library_keeps_every_task_as_it_was(base: Path, tmp_path: Path) -> None:
    shelf = Library.create(tmp_path / "shelf", base)
    assert shelf.names() == []
    for number, name in enumerate(("cats", "old-masters", "b_2")):
        write_adapter(adapter(base, float(number)), tmp_path / f"{name}.safetensors")
        before = {task: shelf.file(task).read_bytes() for task in shelf.names()}
        shelf.add(name, tmp_path / f"{name}.safetensors")
        assert {task: shelf.file(task).read_bytes() for task in before} == before
        assert same(shelf.read(name), adapter(base, float(number)))
    assert Library(tmp_path / "shelf").names() == ["b_2", "cats", "old-masters"]
    assert digest_file(shelf.base / WEIGHTS) == digest_file(base / WEIGHTS)
    assert shelf.load_base().spec == TINY
    size = sum(p.stat().st_size for p in (tmp_path / "shelf" / "tasks").iterdir())
    assert size < (shelf.base / WEIGHTS).stat().st_size / 10


def test_a_library_refuses_what_would_spoil_it(base: Path, tmp_path: Path) -> None:
    file = tmp_path / "cats.safetensors"
    write_adapter(adapter(base), file)
    with pytest.raises(MissingInput, match="not a library"):
        Library(tmp_path)
    with pytest.raises(MissingInput, match=WEIGHTS):
        Library.create(tmp_path / "none", tmp_path)
    shelf = Library.create(tmp_path / "shelf", base)
    with pytest.raises(ConfigError, match="exists"):
        Library.create(tmp_path / "shelf", base)
    shelf.add("cats", file)
    with pytest.raises(ConfigError, match="has a task 'cats'"):
        shelf.add("cats", file)
    with pytest.raises(ConfigError, match="has no task 'dogs'") as error:
        shelf.read("dogs")
    assert "cats" in error.value.remedy
    for name in ("../cats", "", "a/b", "é"):
        with pytest.raises(ConfigError, match="is not a name for a task"):
            shelf.add(name, file)
    write_adapter(replace(adapter(base), base_sha256="0" * 64), tmp_path / "foreign")
    with pytest.raises(CheckpointError, match="trained on a base with sha256 000"):
        shelf.add("foreign", tmp_path / "foreign")
    assert shelf.names() == ["cats"]
    shutil.copyfile(tmp_path / "foreign", shelf.file("cats"))
    with pytest.raises(CheckpointError, match="trained on a base"):
        shelf.read("cats")


def test_a_law_comes_back_beside_the_tensors_and_older_files_have_none(base: Path, tmp_path: Path) -> None:
    write_adapter(adapter(base), tmp_path / "plain")
    assert read_adapter(tmp_path / "plain").prior is None
    write_adapter(replace(adapter(base), prior=TruncatedNormal(8, 0.3)), tmp_path / "cut")
    held = load_file(tmp_path / "cut")
    assert held.keys() - load_file(tmp_path / "plain").keys() == {"prior.limit", "prior.z_dim"}
    found = read_adapter(tmp_path / "cut")
    assert found.prior == TruncatedNormal(8, 0.3) and same(replace(found, prior=None), adapter(base))
    shelf = Library.create(tmp_path / "shelf", base)
    shelf.add("cut", tmp_path / "cut")
    assert shelf.read("cut").prior == TruncatedNormal(8, 0.3)


def test_half_a_law_is_refused(base: Path, tmp_path: Path) -> None:
    tensors = {**adapter(base).tensors, "prior.limit": torch.tensor(0.3)}
    write_adapter(replace(adapter(base), tensors=tensors), tmp_path / "half")
    with pytest.raises(CheckpointError, match="half holds a damaged prior"):
        read_adapter(tmp_path / "half")
