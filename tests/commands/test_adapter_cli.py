from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from graftgan.checkpoints.adapters import Adapter, read_adapter, write_adapter
from graftgan.checkpoints.store import WEIGHTS, load_gan, save_gan
from graftgan.cli import cli
from graftgan.config import Finetune
from graftgan.contract import digest_file
from graftgan.errors import CheckpointError, ConfigError, GraftganError
from graftgan.gans.base import build, sample
from graftgan.gans.laws import TruncatedNormal
from graftgan.gans.stylegan2 import StyleGAN2Spec
from graftgan.transfer.adapters import PLACES

TINY = StyleGAN2Spec(resolution=32, z_dim=8, w_dim=8, mapping_layers=2, channel_base=256, channel_max=8)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base, and two adapters of it in which a layer's bias is 1 and 3."""
    (tmp_path / "base").mkdir()
    save_gan(build(TINY, seed=3), tmp_path / "base")
    places = {key: Finetune().model_dump(mode="json")[key] for key in PLACES}
    for name, value in (("ones", 1.0), ("threes", 3.0)):
        tensors = {"synthesis.b8.conv1.bias": torch.full((8,), value)}
        digest = digest_file(tmp_path / "base" / WEIGHTS)
        origin = {"seed": 4, "licence": "CC0-1.0"} if name == "ones" else {}
        adapter = Adapter(digest, "scale_shift", places, TINY.to_dict(), tensors, origin)
        write_adapter(adapter, tmp_path / f"{name}.safetensors")
    return tmp_path / "base"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["adapter", *map(str, arguments)])


def bias(folder: Path) -> float:
    values = load_gan(folder).generator_ema.get_parameter("synthesis.b8.conv1.bias").detach()
    assert len(set(values.tolist())) == 1
    return float(values[0])


def test_show_tells_base_method_and_parts(base: Path) -> None:
    shown = call("show", base.parent / "ones.safetensors")
    assert shown.exit_code == 0
    assert digest_file(base / WEIGHTS) in shown.output
    assert "method scale_shift, stylegan2 32 px" in shown.output
    assert "  licence CC0-1.0, seed 4\n" in shown.output
    assert "seed" not in call("show", base.parent / "threes.safetensors").output
    assert "8 values in 1 tensors" in shown.output and "bias: 8 values" in shown.output


def test_apply_writes_a_checkpoint_that_can_be_sampled(base: Path) -> None:
    out = base.parent / "adapted"
    done = call("apply", base, base.parent / "ones.safetensors", "--out", out)
    assert done.exit_code == 0, done.output
    assert bias(out) == 1.0 and bias(base) == 0.0
    assert sample(load_gan(out).generator_ema, 2, 0).shape == (2, 32, 32, 3)
    assert isinstance(
        call("apply", base, base.parent / "ones.safetensors", "--out", out).exception, ConfigError
    )


def test_apply_refuses_another_base_and_leaves_nothing(base: Path) -> None:
    other = base.parent / "other"
    other.mkdir()
    save_gan(build(TINY, seed=4), other)
    refused = call("apply", other, base.parent / "ones.safetensors", "--out", base.parent / "no")
    assert isinstance(refused.exception, CheckpointError)
    assert "was trained on a base with sha256" in str(refused.exception)
    assert not (base.parent / "no").exists()


def test_a_library_is_made_filled_listed_and_blended(base: Path) -> None:
    home, shelf = base.parent, base.parent / "shelf"
    assert call("add", shelf, "ones", home / "ones.safetensors", "--base", base).exit_code == 0
    added = call("add", shelf, "threes", home / "threes.safetensors")
    assert added.exit_code == 0 and "ones, threes" in added.output
    listed = call("list", shelf).output.splitlines()
    assert [line.split()[:2] for line in listed] == [["ones", "scale_shift"], ["threes", "scale_shift"]]
    blended = call("blend", shelf, "ones", "threes", "--share", 0.25, "--out", home / "blend")
    assert blended.exit_code == 0, blended.output
    assert bias(home / "blend") == 1.5
    assert isinstance(call("blend", shelf, "ones", "twos", "--out", home / "x").exception, ConfigError)


def test_a_library_is_not_made_for_an_adapter_that_it_cannot_hold(base: Path) -> None:
    home, shelf, other = base.parent, base.parent / "shelf", base.parent / "other"
    other.mkdir()
    save_gan(build(TINY, seed=4), other)
    for name, adapter, foot in (
        ("ones", home / "absent.safetensors", base), ("ones", home / "ones.safetensors", other),
        ("a/b", home / "ones.safetensors", base), ("ones", home / "ones.safetensors", home),
    ):  # fmt: skip
        refused = call("add", shelf, name, adapter, "--base", foot)
        assert isinstance(refused.exception, GraftganError) and not shelf.exists(), refused.output
    assert call("add", shelf, "ones", home / "ones.safetensors", "--base", base).exit_code == 0
    again = call("add", shelf, "threes", home / "threes.safetensors", "--base", base).exception
    assert isinstance(again, ConfigError) and "without a base" in again.remedy


def test_the_commands_load_nothing_heavy_until_they_run() -> None:
    code = "import sys, graftgan.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_law_is_shown_applied_and_not_blended_with_another(base: Path) -> None:
    home, shelf = base.parent, base.parent / "shelf"
    law = TruncatedNormal(8, 0.3)
    write_adapter(replace(read_adapter(home / "ones.safetensors"), prior=law), home / "cut.safetensors")
    assert f"  {law.note}\n" in call("show", home / "cut.safetensors").output
    assert "latents" not in call("show", home / "ones.safetensors").output
    assert call("apply", base, home / "cut.safetensors", "--out", home / "cut").exit_code == 0
    assert load_gan(home / "cut").prior == law
    assert call("add", shelf, "ones", home / "ones.safetensors", "--base", base).exit_code == 0
    assert call("add", shelf, "cut", home / "cut.safetensors").exit_code == 0
    refused = call("blend", shelf, "ones", "cut", "--out", home / "blend")
    assert isinstance(refused.exception, ConfigError) and not (home / "blend").exists()
    assert "N(0, I). Of the other: Its latents come from N(0, I) cut off at 0.3" in str(refused.exception)
