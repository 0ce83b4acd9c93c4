"""`--dry-run` as a person meets it: a failure that can be foreseen has its exit code, nothing is written."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from graftgan.checkpoints.store import WEIGHTS, save_gan
from graftgan.cli import main
from graftgan.contract import digest_file
from graftgan.gans.base import build
from graftgan.gans.stylegan2 import StyleGAN2Spec
from graftgan.preflight import machine

SIZES = {"z_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_base": 64, "channel_max": 4}
Call = Callable[..., tuple[int, str]]


@pytest.fixture
def root(tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which `graftgan run` would succeed."""
    shutil.copytree(image_folder, tmp_path / "images")
    (tmp_path / "tiny").mkdir()
    save_gan(build(StyleGAN2Spec(resolution=32, **SIZES), seed=1), tmp_path / "tiny")
    write_catalogue(tmp_path)
    params = {
        "data": {"path": "images"},
        "rank": {"catalogue": "catalogue.yaml", "extractor": "efflite0-128"},
        "track": {"mode": "off"},
        "runtime": {"device": "cpu"},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / ".graftgan"))
    monkeypatch.setenv("GRAFTGAN_CACHE", str(tmp_path / ".cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_catalogue(root: Path, **changed: Any) -> None:
    entry = {"name": "tiny", "path": "tiny", "sha256": digest_file(root / "tiny" / WEIGHTS), "resolution": 32}
    entry |= changed
    kept = {key: value for key, value in entry.items() if value is not None}
    (root / "catalogue.yaml").write_text(yaml.safe_dump([kept]))


@pytest.fixture
def call(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `graftgan COMMAND --dry-run` and give its exit code and output, once nothing was written."""
    logger = logging.getLogger("graftgan")
    for name in ("handlers", "level", "propagate"):
        monkeypatch.setattr(logger, name, getattr(logger, name))

    def run(command: str, *arguments: str) -> tuple[int, str]:
        before = sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))
        sets = [part for argument in arguments if "=" in argument for part in ("--set", argument)]
        others = [argument for argument in arguments if "=" not in argument]
        monkeypatch.setattr(sys, "argv", ["graftgan", command, "--dry-run", *others, *sets])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        assert sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*")) == before
        return code, "".join(capsys.readouterr())

    return run


def test_all_that_is_checked_is_said(call: Call) -> None:
    code, said = call("run")
    assert code == 0, said
    for part in (
        "prepare: would run", "checks images holds 40 images", "checks out/prepare can be written",
        "rank: would run after prepare", "checks computes on cpu", "checks 1 sources of catalogue.yaml are",
        "checks rank.extractor=efflite0-128: ", "checks finetune.method=full goes", "evaluate.extractor=",
        "checks training needs about ", " MiB of memory with finetune.batch=",
    ):  # fmt: skip
        assert part in said
    assert "FAILS" not in said


def test_too_little_memory_is_told_with_the_batch_that_fits(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftgan.training.memory.available_bytes", lambda device: 20 << 20)
    code, said = call("run", "finetune.batch=512")
    assert code == 0, said
    assert "checks WARNING: training needs about" in said and "with finetune.batch=512" in said
    assert "would fit" in said
    # A method without a discriminator is counted later, and a wrong one is told of once.
    said = call("run", "finetune.method=bsa")[1]
    assert "MiB of memory with" not in said and "bsa says what memory it needs when" in said
    assert call("run", "finetune.method=none")[1].count("FAILS") <= 1


FAILURES = [
    ("prepare", 2, "data.resolution=big", "data.resolution"),
    ("prepare", 4, "data.path=absent", "data.path: absent does not exist"),
    ("prepare", 3, "data.path=params.yaml", "neither a zip nor a parquet file"),
    ("prepare", 3, "data.expectations.min_images=41", "holds 40 images, and data.expectations.min_"),
    ("prepare", 3, "data.expectations.max_images=39", "holds 40 images, and data.expectations.max_"),
    ("rank", 4, "rank.catalogue=absent.yaml", "absent.yaml does not exist"),
    ("run", 4, "rank.catalogue=absent.yaml", "absent.yaml does not exist"),
    ("run", 2, "rank.sources=[huge]", "'huge' is not in catalogue.yaml"),
    ("run", 2, "rank.choose=huge", "rank.choose: 'huge' is not a candidate"),
    ("run", 2, "rank.sources=[]", "no source in catalogue.yaml makes 32 px images of 3 channels"),
    ("run", 2, "rank.extractor=onnx:absent.onnx", "no file at absent.onnx"),
    ("run", 2, "evaluate.extractor=vgg", "unknown feature extractor 'vgg'"),
    ("run", 2, "finetune.validation_extractor=torchscript:absent.pt?px=32", "no file at absent.pt"),
    ("run", 2, "runtime.device=cuda:77", "runtime.device: cuda:77 is not on this machine"),
    ("run", 2, "finetune.precision=fp16", "finetune.precision: fp16 needs a GPU"),
    ("run", 2, "finetune.method=class_embedding", "class_embedding"),
    ("run", 2, "finetune={method: class_embedding, class_embedding: {judge: vgg}}", "extractor 'vgg'"),
    ("run", 2, "finetune={method: class_embedding, class_embedding: {judge_classifier: 'onnx:absent.onnx'}}",
     "no file at absent.onnx"),
    ("run", 2, "finetune.penalties=[none]", "finetune.penalties: 'none' is not a penalty"),
    ("run", 2, "finetune={r1_on_fakes: true, r1_gamma: 0}", "finetune.r1_on_fakes=true with finetune.r1_g"),
    ("run", 2, "finetune={method: auto, penalties: [bsd], bsd_k: 99}", "finetune.bsd_k is 99, but finetune"),
    ("run", 2, "finetune={method: bsa, prior: gmm}", "finetune.prior=gmm has no meaning with finetune."),
    ("run", 2, "track={mode: live, uri: runs}", "track.uri: 'runs' names a folder"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "code", "setting", "part"), FAILURES)
def test_what_would_fail_has_its_exit_code(
    call: Call, command: str, code: int, setting: str, part: str
) -> None:
    found, said = call(command, setting)
    assert (found, part in said) == (code, True), said
    assert "fix: " in said and "Traceback" not in said


def test_what_has_no_effect_from_scratch_is_told(call: Call) -> None:
    code, said = call("run", "rank.choose=scratch", "finetune.method=lora")
    assert code == 0 and "WARNING: finetune.method=lora: no effect on this run" in said, said
    assert "no effect" not in call("run", "finetune.method=lora")[1]


def test_a_stage_without_its_inputs_names_who_makes_them(call: Call) -> None:
    code, said = call("evaluate")
    assert code == 4
    assert "run `graftgan prepare`" in said and "checks evaluate.extractor=efflite0" in said


@pytest.mark.parametrize(
    ("code", "changed", "part"),
    [
        (4, {"path": "absent"}, "absent/gan.safetensors does not exist"),
        (5, {"sha256": "0" * 64}, "has sha256"),
        (5, {"resolution": 64}, "makes images of 32 px, not 64"),
        (4, {"path": "absent.pkl", "format": "public"}, "absent.pkl does not exist"),
        (5, {"path": "params.yaml", "format": "public"}, "params.yaml has sha256"),
    ],
)
def test_sources_are_read_through(
    call: Call, root: Path, code: int, changed: dict[str, Any], part: str
) -> None:
    write_catalogue(root, **changed)
    found, said = call("run")
    assert (found, part in said) == (code, True), said


@pytest.mark.parametrize("format_", ["graftgan", "public"])
def test_a_source_by_url_is_not_fetched(call: Call, root: Path, format_: str) -> None:
    write_catalogue(root, path=None, url=(root / "tiny" / WEIGHTS).as_uri(), format=format_)
    code, said = call("run")
    assert code == 0, said
    assert "tiny has still to be fetched or converted" in said


def test_every_failure_is_told_and_the_first_gives_the_code(call: Call) -> None:
    code, said = call("run", "data.expectations.min_images=41", "evaluate.extractor=vgg")
    assert code == 3
    assert said.count("FAILS: ") == 3 and "unknown feature extractor 'vgg'" in said


def test_a_method_that_knows_none_of_the_sources_is_refused(call: Call) -> None:
    code, said = call("run", "finetune.method=adafm")
    assert code == 0, said
    code, said = call("run", "finetune.method=bsa")
    assert (code, "for family" in said) == (2, True), said


def test_a_source_of_unknown_family_is_not_refused(call: Call, root: Path) -> None:
    write_catalogue(root, path=None, url="https://host.invalid/biggan.pkl", format="public")
    code, said = call("run", "finetune.method=bsa")
    assert code == 0, said
    assert "with tiny is not known before that is fetched" in said


@pytest.mark.parametrize("option", ["out", "home", "cache"])
def test_a_place_that_cannot_be_written(
    call: Call, root: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    file = str(root / "params.yaml" / "x")
    if option == "out":
        code, said = call("run", "--out", file)
    else:
        monkeypatch.setenv(f"GRAFTGAN_{option.upper()}", file)
        code, said = call("run")
    assert code == 2
    name = "--out" if option == "out" else f"GRAFTGAN_{option.upper()}"
    assert "params.yaml is no folder" in said and f"choose another {name}" in said


@pytest.fixture
def read_only(root: Path) -> Iterator[Path]:
    folder = root / "locked"
    folder.mkdir(mode=0o500)
    yield folder
    folder.chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(call: Call, read_only: Path) -> None:
    code, said = call("prepare", "--out", str(read_only / "out"))
    assert (code, "may not be written" in said) == (2, True)


def test_too_little_space_can_be_tried_again(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LEAST_FREE_BYTES", 1 << 60)
    code, said = call("prepare")
    assert (code, "no space left on the disk of out/prepare" in said) == (75, True)
    monkeypatch.undo()


def test_the_packed_size_is_known_beforehand(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LEAST_FREE_BYTES", 0)
    free = shutil.disk_usage(".")._replace(free=40 * 32 * 32 * 3)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    assert call("prepare")[0] == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=free.free - 1))
    assert call("prepare")[0] == 75
