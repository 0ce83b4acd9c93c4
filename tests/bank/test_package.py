from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graftgan.bank.package import BankPackage, is_bank, load_bank_package, write_bank_package
from graftgan.bank.tasks import exact, load_task
from graftgan.data.decoding import BadImageError
from graftgan.errors import CheckpointError, MissingInput
from graftgan.gans.base import to_uint8
from tests.bank.banks import SIZE_PX, contents, grown


@pytest.fixture
def package(tmp_path: Path) -> BankPackage:
    bank = grown(tmp_path / "bank", ["random", "warm:t1"])
    (bank.folder / ".lock").touch()
    (tmp_path / "package").mkdir()
    about = {"t1": {"background": "#000000"}, "t2": {"background": "#ffffff"}}
    write_bank_package(bank.folder, tmp_path / "package", {"tasks": about}, "# card\n")
    return load_bank_package(tmp_path / "package")


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_package_is_the_bank_byte_for_byte_without_its_lock(package: BankPackage, tmp_path: Path) -> None:
    assert contents(package.bank.folder) == contents(tmp_path / "bank")
    assert not (package.bank.folder / ".lock").exists()
    assert package.tasks == ("t1", "t2") and is_bank(package.facts)
    assert (tmp_path / "package" / "card.md").read_text() == "# card\n"


def test_the_middle_square_is_translated_over_the_tasks_own_background(package: BankPackage) -> None:
    wide = Image.new("RGBA", (2 * SIZE_PX, SIZE_PX), (255, 0, 0, 255))
    wide.paste((0, 0, 0, 0), (SIZE_PX // 2, 0, 3 * SIZE_PX // 2, SIZE_PX))
    for task, level in (("t1", -1.0), ("t2", 1.0)):
        with exact():
            flat = torch.full((1, 3, SIZE_PX, SIZE_PX), level)
            expected = to_uint8(load_task(package.bank, task)(flat))[0]
        assert np.array_equal(package.translate(task, encoded(wide)), expected)


def test_unknown_tasks_bad_images_and_damaged_banks_are_told(package: BankPackage) -> None:
    with pytest.raises(MissingInput, match="no task 't3'"):
        package.translate("t3", encoded(Image.new("RGB", (4, 4))))
    with pytest.raises(BadImageError):
        package.translate("t1", b"no picture")
    folder = package.bank.folder.parent
    (folder / "bank" / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError):
        load_bank_package(folder)
    (folder / "model.json").write_text('{"schema": 1}')
    with pytest.raises(CheckpointError, match="not a bank's package of schema 1"):
        load_bank_package(folder)
