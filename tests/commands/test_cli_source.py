from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from graftgan.checkpoints.store import save_gan
from graftgan.cli import cli
from graftgan.errors import CheckpointError, MissingInput
from graftgan.gans.base import build
from graftgan.gans.stylegan2 import StyleGAN2Spec

TINY = StyleGAN2Spec(resolution=32, z_dim=8, w_dim=8, mapping_layers=2, channel_base=256, channel_max=8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    save_gan(build(TINY, seed=3), tmp_path / "model")
    return tmp_path / "model"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["source", *map(str, arguments)])


def test_a_checkpoint_goes_out_and_comes_back_by_the_command_line(model: Path, tmp_path: Path) -> None:
    public = tmp_path / "public.pt"
    out = call("export", model, "--format", "rosinality", "--out", public)
    assert out.exit_code == 0 and "MB" in out.output
    looked = call("inspect", public)
    assert looked.exit_code == 0 and "stylegan2 (rosinality)" in looked.output
    taken = call("import", public, "--out", tmp_path / "faces", "--licence", "CC0-1.0", "--domain", "face")
    (entry,) = yaml.safe_load(taken.output)
    assert (entry["name"], entry["licence"], entry["domain"]) == ("faces", "CC0-1.0", ["face"])
    assert call("inspect", tmp_path / "faces").exit_code == 0


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pkl").write_text("hello")
    assert isinstance(call("inspect", tmp_path / "text.pkl").exception, CheckpointError)
    assert isinstance(call("inspect", tmp_path / "absent.pkl").exception, MissingInput)
