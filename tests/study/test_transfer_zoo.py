"""The study of sources and arms on what is shipped: two sources, one image set, hardly a budget."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from graftgan.cli import cli
from graftgan.study import commands

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.nightly
def test_the_command_runs_on_the_zoo_and_the_shipped_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands.StopSignal, "install", lambda self: None)
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(ROOT)
    settings = {
        "finetune.budget": "{kimg: 0.032}", "finetune.evaluate_every_kimg": 0.032,
        "finetune.validation_samples": 16, "rank.samples": 40, "data.train_images": 16,
        "runtime.device": "cpu",
    }  # fmt: skip
    words = ["study", "transfer", "--targets", "data/micah.parquet", "--out", str(tmp_path / "study")]
    words += ["--sources", "mixture", "--sources", "big-smile", "--seeds", "1"]
    words += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "On micah the lowest KID, " in result.output
    page = (tmp_path / "study" / "transfer.html").read_text(encoding="utf-8")
    assert "arms of mixture" in page and "arms of big-smile" in page
    table = pd.read_parquet(tmp_path / "study" / "transfer.parquet")
    runs = {(row.source, row.arm) for row in table.itertuples()}
    arms = {(source, arm) for source in ("mixture", "big-smile") for arm in ("both", "g_only", "d_only")}
    assert runs == arms | {("scratch", "scratch")}
    assert table.groupby(["source", "arm"]).images.max().eq(32).all()
    last = table[table.images == 0].set_index(["source", "arm"]).kid
    assert last["mixture", "both"] == last["mixture", "g_only"] < last["mixture", "d_only"]
    logging.getLogger("graftgan").handlers = []
