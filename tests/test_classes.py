from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from stages.test_finetune import write_set
from transfer.families import SIZES, small

from graftgan.checkpoints.store import save_gan
from graftgan.classes import cosine, diagnose, real_features, table_lines, vector_facts, with_findings
from graftgan.cli import cli
from graftgan.errors import CheckpointError, ConfigError, DataError, MissingInput
from graftgan.gans.base import Gan, build
from graftgan.gans.class_table import write_row
from graftgan.gans.spec import GanSpec


class Colours:
    """Features: the mean colour of each quarter of an image."""

    name, dim, input_px, protocol = "colours", 12, 32, "colours@32"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        n, side = len(images), images.shape[1] // 2
        quarters = images.reshape(n, 2, side, 2, side, 3).mean(axis=(2, 4))
        return quarters.reshape(n, 12).astype(np.float32)


def groups(classes: int = 5) -> Gan:
    """A BigGAN of which class 3 ignores its latent, 4 is a copy of 1, and 0 has a long vector."""
    spec = GanSpec.from_dict({"family": "biggan", "resolution": 32, **SIZES["biggan"], "classes": classes})
    gan = build(spec, 1)
    with torch.no_grad():
        for network in (gan.generator, gan.generator_ema):
            rng = torch.Generator().manual_seed(0)
            for row in range(classes):
                write_row(network, row, torch.randn(4, generator=rng))
    return gan


def vectors() -> torch.Tensor:
    table = torch.nn.functional.normalize(
        torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), dim=1
    )
    table[0] *= 3
    table[4] = table[1] + 1e-4
    return table


def test_vectors_tell_norm_neighbour_and_copies() -> None:
    facts = vector_facts(vectors(), ["long"])
    assert facts[0]["name"] == "long" and facts[1]["name"] == ""
    assert facts[0]["norm"] == pytest.approx(3.0, rel=1e-5) and facts[0]["norm_score"] > 2
    assert (facts[1]["nearest"], facts[4]["nearest"]) == (4, 1)
    assert facts[1]["nearest_cosine"] == pytest.approx(1.0, abs=1e-4)
    assert cosine(np.array([1.0, 0.0]), np.array([0.0, 2.0])) == 0.0


def test_one_class_has_no_neighbour() -> None:
    (facts,) = vector_facts(vectors()[:1])
    assert facts["nearest"] is None


def test_a_class_that_ignores_its_latent_is_collapsed(monkeypatch: pytest.MonkeyPatch) -> None:
    gan = groups()
    rng = np.random.default_rng(0)
    varied = rng.integers(0, 256, (5, 16, 32, 32, 3), dtype=np.uint8)
    varied[3] = varied[3, :1]
    drawn = iter(varied)
    monkeypatch.setattr("graftgan.classes.sample_vector", lambda *given: next(drawn))
    found, _ = diagnose(gan.generator_ema, Colours(), 16, 0)
    assert "collapsed" in found[3].findings
    assert not any("collapsed" in found[i].findings for i in (0, 1, 2, 4))
    assert found[3].share == pytest.approx(0.0, abs=1e-6) and found[3].spread.twins == 1.0


def test_all_classes_are_compared_on_the_same_latents() -> None:
    gan = groups()
    with torch.no_grad():
        for row in (1, 4):
            write_row(gan.generator_ema, row, torch.ones(4))
    found, images = diagnose(gan.generator_ema, Colours(), 12, 0, names=["a", "b"])
    assert (images[1] == images[4]).all() and not (images[0] == images[1]).all()
    assert found[1].spread == found[4].spread
    assert "same as 4" in found[1].findings and "same as 1" in found[4].findings
    assert [one.id for one in found] == list(range(5)) and found[1].name == "b"
    again, _ = diagnose(gan.generator_ema, Colours(), 12, 0, names=["a", "b"])
    assert again == found


def test_real_images_tell_what_is_missing() -> None:
    gan = groups()
    _, images = diagnose(gan.generator_ema, Colours(), 16, 0)
    rows = Colours()(images[0])
    far = np.concatenate([rows, rows + 300.0, rows - 300.0])
    found, _ = diagnose(gan.generator_ema, Colours(), 16, 0, real={0: far, 1: Colours()(images[1])})
    assert "misses images" in found[0].findings and "narrower than its images" in found[0].findings
    assert found[0].coverage == pytest.approx(1 / 3, abs=0.05)
    assert found[1].coverage == 1.0 and found[1].real_share == pytest.approx(1.0)
    assert found[2].coverage is None


def test_findings_follow_from_the_facts() -> None:
    found, _ = diagnose(groups().generator_ema, Colours(), 12, 0)
    assert with_findings(found) == found


def test_the_table_has_a_line_for_each_class() -> None:
    found, _ = diagnose(groups().generator_ema, Colours(), 12, 0, names=["first"])
    lines = table_lines(found)
    assert len(lines) == 6 and lines[0].startswith("class") and lines[1].startswith("0 first")
    assert max(map(len, lines)) < 110


def test_real_images_come_from_a_packed_set(tmp_path: Path) -> None:
    generator = groups().generator_ema
    write_set(tmp_path / "labelled", labels=3)
    found = real_features(tmp_path / "labelled", Colours(), generator, None)
    assert sorted(found) == [0, 1, 2] and sum(map(len, found.values())) == 38
    write_set(tmp_path / "plain")
    assert list(real_features(tmp_path / "plain", Colours(), generator, 4)) == [4]
    with pytest.raises(DataError, match="no label"):
        real_features(tmp_path / "plain", Colours(), generator, None)
    write_set(tmp_path / "many", labels=7)
    with pytest.raises(ConfigError, match="class 6"):
        real_features(tmp_path / "many", Colours(), generator, None)


# The command


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("groups")
    save_gan(groups(), folder)
    card = {"data": {"classes": [{"data": name} for name in ("a", "b", "c", "d", "e")]}}
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["classes", "diagnose", *map(str, arguments)])


def test_the_command_prints_a_table_and_writes_sheets(source: Path, tmp_path: Path) -> None:
    result = call(source, "--samples", 8, "--sheets", tmp_path / "sheets")
    assert result.exit_code == 0, result.output
    assert [line.split()[:2] for line in result.output.splitlines()[1:]] == [
        [str(i), n] for i, n in enumerate("abcde")
    ]
    names = {path.name for path in (tmp_path / "sheets").iterdir()}
    assert names == {"classes.png"} | {f"class-{i:03d}.png" for i in range(5)}
    assert Image.open(tmp_path / "sheets" / "classes.png").width >= 8 * 64


def test_the_command_prints_json(source: Path, tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    result = call(source, "--samples", 8, "--json", "--dataset", tmp_path / "set", "--dataset-class", 2)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    assert facts["samples"] == 8 and len(facts["classes"]) == 5
    assert facts["classes"][2]["coverage"] is not None and facts["classes"][1]["coverage"] is None


def test_errors_name_the_file_and_have_their_codes(source: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    save_gan(small("stylegan2"), plain)
    broken = tmp_path / "broken"
    broken.mkdir()
    save_gan(groups(), broken)
    (broken / "gan.safetensors").write_bytes(b"nothing")
    cases = [
        ((plain,), ConfigError, "has no classes"),
        ((tmp_path / "absent",), MissingInput, "absent"),
        ((broken,), CheckpointError, "broken"),
        ((source, "--dataset-class", 1), ConfigError, "needs --dataset"),
        ((source, "--dataset-class", 9, "--dataset", tmp_path), ConfigError, "is not one of"),
    ]
    for arguments, kind, text in cases:
        error = call(*arguments, "--samples", 8).exception
        assert isinstance(error, kind) and text in str(error), error
    assert str(plain) in str(call(plain).exception)
