from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from graftgan.errors import CheckpointError, ConfigError
from graftgan.metrics.features import make_extractor
from graftgan.metrics.features.efficientnet_lite import EfficientNetLite0
from graftgan.metrics.features.weights import (
    INCEPTION_ENV,
    INCEPTION_FILES,
    file_sha256,
    find_efflite0,
    find_inception,
    load_state,
)


def test_wrong_weights_may_not_bear_the_name(tmp_path: Path) -> None:
    fake = tmp_path / "w.pth"
    torch.save(EfficientNetLite0().state_dict(), fake)
    with pytest.raises(CheckpointError, match="sha256 starts with"):
        make_extractor("efflite0", weights=fake)
    with pytest.raises(ConfigError, match="no weight file"):
        make_extractor("efflite0", weights=tmp_path / "absent.pth")
    with pytest.raises(ConfigError, match="unknown feature extractor 'vgg'"):
        make_extractor("vgg")


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftgan.metrics.features.weights._EFFLITE0_PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match=r"graftgan\[features\]"):
        find_efflite0()


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (INCEPTION_ENV, "GRAFTGAN_CACHE", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_absent_official_weights_list_the_places_and_the_remedies(empty_home: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        make_extractor("inception")
    text = str(caught.value)
    assert caught.value.exit_code == 2
    for part in (
        "does not download them by itself",
        "runtime.inception_weights (not given)",
        "$GRAFTGAN_INCEPTION_WEIGHTS (not set)",
        f"{empty_home}/.cache/graftgan/",
        f"{empty_home}/.cache/torch/hub/checkpoints/",
        "graftgan weights fetch inception",
        "evaluate.extractor: efflite0",
        "NOT comparable",
    ):
        assert part in text


def test_search_order_is_path_environment_own_cache_torch_cache(
    empty_home: Path, random_inception: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "graftgan.metrics.features.weights.INCEPTION_SHA256_PREFIX", file_sha256(random_inception)[:8]
    )
    hub = empty_home / ".cache/torch/hub/checkpoints" / INCEPTION_FILES[1]
    own = empty_home / ".cache/graftgan" / INCEPTION_FILES[0]
    named, given = empty_home / "env.pth", empty_home / "given.pth"
    for path in (hub, own, named):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(random_inception, path)
        if path == named:
            monkeypatch.setenv(INCEPTION_ENV, str(path))
        assert find_inception() == path
    with pytest.raises(ConfigError, match=r"given\.pth: no such file"):
        find_inception(given)
    os.link(random_inception, given)
    assert find_inception(given) == given
    hub.unlink()


def test_a_file_of_another_hash_is_refused(empty_home: Path, random_inception: Path) -> None:
    with pytest.raises(CheckpointError, match="instead of 6726825d"):
        find_inception(random_inception)


def test_weight_files_run_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "evil.pth"
    torch.save({"a": Evil()}, path)
    with pytest.raises(CheckpointError, match="cannot be read as tensors"):
        load_state(path)
    assert not (tmp_path / "ran").exists()
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="no dictionary"):
        load_state(path)
