"""Translated pictures and exported networks are what the task computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graftgan.bank.store import Bank
from graftgan.bank.tasks import fixed_inputs, load_task
from graftgan.bank.using import export_task, translate_files
from graftgan.checkpoints.convert import read_checkpoint
from graftgan.errors import ConfigError, DataError, MissingInput
from graftgan.gans.base import to_uint8
from tests.bank.banks import SIZE_PX, TINY, grown


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return grown(
        tmp_path_factory.mktemp("using") / "bank", ["random", "random"], backgrounds=[None, "#204060"]
    )


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    return tmp_path / "in.png"


def test_pictures_are_translated_by_the_task(bank: Bank, picture: Path, tmp_path: Path) -> None:
    (made,) = translate_files(bank, "t2", [picture], tmp_path / "out")
    assert made == tmp_path / "out" / "in.png"
    pixels = torch.from_numpy(np.array(Image.open(picture))).permute(2, 0, 1)[None]
    wanted = to_uint8(load_task(bank, "t2")(pixels / 127.5 - 1))[0]
    assert np.array_equal(np.array(Image.open(made)), wanted)
    (larger,) = translate_files(bank, "t2", [picture], tmp_path / "larger", 32)
    assert Image.open(larger).size == (32, 32)


@pytest.mark.parametrize(("task", "behind"), [("t1", (255, 255, 255)), ("t2", (0x20, 0x40, 0x60))])
def test_transparent_pictures_lie_over_the_tasks_own_background(
    bank: Bank, tmp_path: Path, task: str, behind: tuple[int, int, int]
) -> None:
    shape = np.zeros((SIZE_PX, SIZE_PX, 4), dtype=np.uint8)
    shape[4:12, 4:12] = (200, 30, 90, 255)
    Image.fromarray(shape).save(tmp_path / "through.png")
    solid = np.full((SIZE_PX, SIZE_PX, 3), behind, dtype=np.uint8)
    solid[4:12, 4:12] = (200, 30, 90)
    Image.fromarray(solid).save(tmp_path / "solid.png")
    made = translate_files(bank, task, [tmp_path / "through.png", tmp_path / "solid.png"], tmp_path / "out")
    first, second = (np.array(Image.open(path)) for path in made)
    assert np.array_equal(first, second)
    bordering = np.full_like(solid, 128)
    bordering[4:12, 4:12] = (200, 30, 90)
    Image.fromarray(bordering).save(tmp_path / "other.png")
    (other,) = translate_files(bank, task, [tmp_path / "other.png"], tmp_path / "out")
    assert not np.array_equal(first, np.array(Image.open(other)))


def test_what_cannot_be_translated_is_named(bank: Bank, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    other = tmp_path / "in.jpg"
    for given, error, word in (
        ([tmp_path / "none.png"], MissingInput, r"none\.png does not exist"),
        ([tmp_path / "x.txt"], DataError, r"x\.txt cannot be read"),
        ([picture, other], ConfigError, "one name"),
    ):
        with pytest.raises(error, match=word):
            translate_files(bank, "t1", given, tmp_path / "out")
    with pytest.raises(ConfigError, match="18 px"):
        translate_files(bank, "t1", [picture], tmp_path / "out", 18)
    with pytest.raises(MissingInput, match="no task 'x'"):
        translate_files(bank, "x", [picture], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_dense_checkpoint_reads_back_as_the_task(bank: Bank, tmp_path: Path) -> None:
    export_task(bank, "t2", "cyclegan", tmp_path / "latest_net_G.pth")
    imported = read_checkpoint(tmp_path / "latest_net_G.pth")
    assert imported.spec == TINY
    for name, value in load_task(bank, "t2").state_dict().items():
        assert torch.equal(imported.tensors[f"translator.{name}"], value)


def test_an_onnx_file_computes_the_task_for_any_number_of_images(bank: Bank, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    export_task(bank, "t2", "onnx", tmp_path / "t2.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "t2.onnx"))
    images = fixed_inputs(TINY, SIZE_PX).repeat(2, 1, 1, 1)[:3].flip(-1)
    (made,) = session.run(["translated"], {"images": images.numpy()})
    assert np.allclose(made, load_task(bank, "t2")(images).numpy(), atol=1e-4)


def test_unknown_formats_are_refused(bank: Bank, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no format 'gif'"):
        export_task(bank, "t1", "gif", tmp_path / "x")
    assert not (tmp_path / "x").exists()
