from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from graftgan.checkpoints.store import save_gan
from graftgan.contract import digest_path, write_json
from graftgan.errors import CheckpointError, ConfigError, MissingInput
from graftgan.gans.base import Gan, build, sample
from graftgan.gans.stylegan2 import StyleGAN2Spec
from graftgan.sampling import MAX_SEEDS, draw, interpolation, open_generator, parse_seeds

SIZES = {"z_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_base": 64, "channel_max": 4}


@pytest.fixture(scope="module")
def gan() -> Gan:
    return build(StyleGAN2Spec(resolution=32, **SIZES), seed=1)


@pytest.fixture(scope="module")
def checkpoint(gan: Gan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_gan(gan, folder)
    return folder


@pytest.fixture(scope="module")
def package(gan: Gan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registered package: the averaged generator alone."""
    folder = tmp_path_factory.mktemp("package")
    tensors = {k: v.contiguous().clone() for k, v in gan.generator_ema.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    write_json(folder / "model.json", {"spec": gan.spec.to_dict()})
    return folder


def drawn(model: Path, out: Path, seeds: str = "0-3", **changed: object) -> str:
    how = {"psi": 1.0, "label": None, "columns": 2, "scale_px": 32, "frames": 3} | changed
    return draw(model=model, seeds=seeds, out=out, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("7", [7]), ("0-3", [0, 1, 2, 3]), ("1,5,9-12", [1, 5, 9, 10, 11, 12]), (" 2 , 4-5", [2, 4, 5]),
        ("3,3", [3, 3]), ("5-5", [5]), ("4,9-8", [4]), (f"1-{MAX_SEEDS}", list(range(1, MAX_SEEDS + 1))),
    ],
)  # fmt: skip
def test_seeds_are_numbers_and_ranges(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1,", "-", "-3", "1--3", "1.5", "9-8", "1;2", "0-", "1-2-3"])
def test_other_texts_are_no_seeds(text: str) -> None:
    with pytest.raises(ConfigError, match="--seeds") as caught:
        parse_seeds(text)
    assert "1,5,9-12" in caught.value.remedy


@pytest.mark.parametrize("text", [f"0-{MAX_SEEDS}", f"0,1-{MAX_SEEDS}", "0-99999999999999999999"])
def test_too_many_seeds_are_refused_before_they_are_listed(text: str) -> None:
    with pytest.raises(ConfigError, match="more than 4096 seeds"):
        parse_seeds(text)


def test_checkpoint_and_package_give_the_same_pictures(gan: Gan, checkpoint: Path, package: Path) -> None:
    expected = sample(gan.generator_ema, 2, 5)
    for folder in (checkpoint, package):
        np.testing.assert_array_equal(sample(open_generator(folder), 2, 5), expected)


def test_other_folders_are_no_models(tmp_path: Path, package: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(MissingInput, match="holds neither") as caught:
            open_generator(folder)
        assert "out/finetune/models/chosen" in caught.value.remedy
    (tmp_path / "model.safetensors").write_bytes((package / "model.safetensors").read_bytes()[:-9])
    (tmp_path / "model.json").write_bytes((package / "model.json").read_bytes())
    with pytest.raises(CheckpointError):
        open_generator(tmp_path)


def test_a_grid_holds_one_cell_a_seed(checkpoint: Path, gan: Gan, tmp_path: Path) -> None:
    assert drawn(checkpoint, tmp_path / "x.png", "0-2,9") == f"{tmp_path / 'x.png'}: 4 samples"
    grid = np.asarray(Image.open(tmp_path / "x.png").convert("RGB"))
    assert grid.shape[0] == grid.shape[1]
    assert 64 <= grid.shape[0] <= 64 + 6
    cell = sample(gan.generator_ema, 1, 9)[0]
    windows = np.lib.stride_tricks.sliding_window_view(grid, (32, 32, 3))[:, :, 0]
    assert any(np.array_equal(w, cell) for w in windows.reshape(-1, 32, 32, 3))


def test_a_seed_gives_the_same_picture_alone_and_among_others(checkpoint: Path, tmp_path: Path) -> None:
    assert drawn(checkpoint, tmp_path / "all", "3-5") == f"{tmp_path / 'all'}: 3 files"
    drawn(checkpoint, tmp_path / "one", "4")
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == [f"seed00000{n}.png" for n in (3, 4, 5)]
    assert (tmp_path / "one/seed000004.png").read_bytes() == (tmp_path / "all/seed000004.png").read_bytes()
    assert len({digest_path(p) for p in (tmp_path / "all").iterdir()}) == 3
    assert Image.open(tmp_path / "one/seed000004.png").size == (32, 32)


def test_full_truncation_makes_all_seeds_alike(checkpoint: Path, tmp_path: Path) -> None:
    def spread(psi: float) -> float:
        folder = tmp_path / f"psi{10 * psi:.0f}"
        drawn(checkpoint, folder, "0-7", psi=psi)
        pictures = [np.asarray(Image.open(p), float) for p in folder.iterdir()]
        return float(np.std(pictures, axis=0).mean())

    assert spread(0.0) < spread(0.5) < spread(1.0)


def test_an_interpolation_is_a_closed_walk(checkpoint: Path, tmp_path: Path) -> None:
    assert drawn(checkpoint, tmp_path / "w.gif", "0-7") == f"{tmp_path / 'w.gif'}: 12 frames"
    with Image.open(tmp_path / "w.gif") as gif:
        assert gif.n_frames == 12
        assert gif.width > 2 * 32 > gif.height


def test_an_interpolation_goes_through_all_seeds_in_their_order(gan: Gan) -> None:
    found = interpolation(gan.generator_ema, [5, 3, 8, 1, 9, 0, 2, 7], 1.0, None, columns=8, frames=3)
    assert found.shape == (12, 2, 32, 32, 3)
    for column, seeds in enumerate(([5, 3, 8, 1], [9, 0, 2, 7])):
        for stop, seed in enumerate(seeds):
            picture = sample(gan.generator_ema, 1, seed)[0].astype(int)
            assert np.abs(found[3 * stop, column] - picture).max() <= 1
            assert np.abs(found[3 * stop + 1, column] - picture).max() > 1


@pytest.mark.parametrize(
    ("seeds", "columns", "walks", "stops"),
    [(64, 8, 8, 8), (64, 2, 2, 32), (3, 8, 1, 3), (9, 8, 2, 5), (2, 1, 1, 2)],
)
def test_seeds_are_shared_out_among_walks(gan: Gan, seeds: int, columns: int, walks: int, stops: int) -> None:
    found = interpolation(gan.generator_ema, list(range(seeds)), 1.0, None, columns, frames=1)
    assert found.shape[:2] == (stops, walks)
    shown = found.swapaxes(0, 1).reshape(walks * stops, 32, 32, 3)
    for place in range(walks * stops):
        picture = sample(gan.generator_ema, 1, place % seeds)[0].astype(int)
        assert np.abs(shown[place] - picture).max() <= 1


def test_too_many_frames_are_refused_before_they_are_drawn(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1040 frames, at most 1024"):
        drawn(checkpoint, tmp_path / "w.gif", "0-7", columns=1, frames=130)
    assert list(tmp_path.iterdir()) == []


def test_a_single_seed_leads_nowhere(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two seeds or more"):
        drawn(checkpoint, tmp_path / "w.gif", "7")
    assert list(tmp_path.iterdir()) == []


def test_a_grey_model_gives_grey_pictures(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    save_gan(build(StyleGAN2Spec(resolution=32, channels=1, **SIZES), seed=1), tmp_path / "m")
    drawn(tmp_path / "m", tmp_path / "singles", "1")
    drawn(tmp_path / "m", tmp_path / "g.png")
    drawn(tmp_path / "m", tmp_path / "g.gif")
    assert Image.open(tmp_path / "singles/seed000001.png").mode == "L"


def test_classes_choose_the_picture(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    save_gan(build(StyleGAN2Spec(resolution=32, classes=3, **SIZES), seed=1), tmp_path / "m")
    for label in (0, 1, 2):
        drawn(tmp_path / "m", tmp_path / str(label), "1", label=label)
    assert len({(tmp_path / str(n) / "seed000001.png").read_bytes() for n in (0, 1, 2)}) == 3
    for out in ("x", "x.png", "x.gif"):
        with pytest.raises(ConfigError, match=r"--class 9: .* has classes 0 to 2"):
            drawn(tmp_path / "m", tmp_path / out, label=9)
    assert not list(tmp_path.glob("x*"))


def test_a_model_without_classes_takes_none(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no classes"):
        drawn(checkpoint, tmp_path / "x.png", label=0)


def test_a_folder_that_exists_may_have_any_name(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "v1.5").mkdir()
    assert "1 files" in drawn(checkpoint, tmp_path / "v1.5", "1")


def test_other_suffixes_are_refused_and_nothing_is_written(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither \.png, \.gif nor a folder"):
        drawn(checkpoint, tmp_path / "x.mp4")
    assert list(tmp_path.iterdir()) == []
