"""Feature networks are opened once for one file, and again for another."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from faults.harness import Colours

from graftgan.errors import ConfigError
from graftgan.params import load
from graftgan.stages import features as module
from graftgan.stages.features import (
    MEASURING,
    SAMPLING,
    feature_key,
    images_key,
    open_extractor,
    samples_key,
)

PARAMS = load(None, ["runtime.device=cpu"])
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


class Darker(Colours):
    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(img, 1).flatten(1) / 2


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the extractors that were opened."""
    names: list[str] = []
    make = module.make_extractor

    def noting(name: str, **rest: object) -> object:
        names.append(name)
        return make(name, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "make_extractor", noting)
    module._opened.cache_clear()
    return names


def written(file: Path, network: torch.nn.Module) -> str:
    torch.jit.script(network).save(str(file))
    return f"torchscript:{file}?px=8"


def test_one_file_is_opened_once(tmp_path: Path, opened: list[str]) -> None:
    name = written(tmp_path / "a.pt", Colours())
    first, again = open_extractor(name, PARAMS), open_extractor(name, PARAMS)
    assert first is again
    assert opened == [name]


def test_another_network_in_the_same_file_is_opened(tmp_path: Path, opened: list[str]) -> None:
    name = written(tmp_path / "a.pt", Colours())
    before = open_extractor(name, PARAMS)
    expected = before(IMAGES)
    written(tmp_path / "a.pt", Darker())
    state = (tmp_path / "a.pt").stat()
    os.utime(tmp_path / "a.pt", ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    after = open_extractor(name, PARAMS)
    assert len(opened) == 2
    assert after.protocol != before.protocol
    assert not np.allclose(after(IMAGES).mean(), expected.mean())


def test_another_size_of_input_is_another_extractor(tmp_path: Path, opened: list[str]) -> None:
    name = written(tmp_path / "a.pt", Colours())
    protocols = {open_extractor(n, PARAMS).protocol for n in (name, name.replace("px=8", "px=16"))}
    assert len(protocols) == len(opened) == 2


def test_a_file_that_is_gone_is_told_of(tmp_path: Path, opened: list[str]) -> None:
    name = written(tmp_path / "a.pt", Colours())
    open_extractor(name, PARAMS)
    (tmp_path / "a.pt").unlink()
    with pytest.raises(ConfigError, match=r"a\.pt"):
        open_extractor(name, PARAMS)


def test_images_are_known_by_every_pixel_and_their_shape() -> None:
    other = IMAGES.copy()
    other[2, 7, 7, 2] ^= 1
    keys = [
        images_key(IMAGES),
        images_key(other),
        images_key(IMAGES[:2]),
        images_key(IMAGES.reshape(3, 4, 16, 3)),
    ]
    assert len({*keys}) == 4
    turned = np.asfortranarray(IMAGES)
    assert images_key(turned) == images_key(IMAGES.copy()) == keys[0]


def test_samples_are_known_by_weights_device_settings_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda:1")
    key = samples_key("weights", cpu, 100, 0, 1.0)
    assert key == samples_key("weights", cpu, 100, 0, 1.0)
    assert samples_key("weights", cuda, 1) == samples_key("weights", torch.device("cuda"), 1)
    others = [
        samples_key("other", cpu, 100, 0, 1.0),
        samples_key("weights", cuda, 100, 0, 1.0),
        samples_key("weights", cpu, 100, 1, 1.0),
        samples_key("weights", cpu, 100, 0, 0.7),
    ]
    parts: list[str] = []
    monkeypatch.setattr(module, "code_digest", lambda *given: parts.extend(given) or "edited")
    others.append(samples_key("weights", cpu, 100, 0, 1.0))
    assert len({key, *others}) == 6
    assert tuple(parts) == SAMPLING


def test_features_are_known_by_the_code_and_the_device_that_made_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = open_extractor(written(tmp_path / "a.pt", Colours()), PARAMS)
    key = feature_key("images", extractor)
    assert key == feature_key("images", extractor) != feature_key("others", extractor)
    with monkeypatch.context() as patch:
        patch.setattr(extractor, "device", torch.device("cuda"))
        assert feature_key("images", extractor) != key
    parts: list[str] = []
    monkeypatch.setattr(module, "code_digest", lambda *given: parts.extend(given) or "edited")
    assert feature_key("images", extractor) != key
    assert tuple(parts) == MEASURING


@pytest.mark.parametrize("part", [*MEASURING, *SAMPLING])
def test_what_counts_as_code_is_there(part: str) -> None:
    assert (Path(module.__file__).parents[1] / part).exists()
