"""Fetches weights of feature extractors that may not be shipped; only ever on request."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from graftgan.checkpoints.downloading import download
from graftgan.contract import atomic_path, digest_file
from graftgan.errors import CheckpointError, ConfigError
from graftgan.metrics.features.weights import (
    INCEPTION_FILES,
    INCEPTION_MB,
    INCEPTION_SHA256_PREFIX,
    own_cache,
)


@dataclass(frozen=True)
class Release:
    """A published weight file.

    Attributes:
        url: Its address.
        sha256_prefix: First hex digits of its sha256.
        file: Name under which the extractor looks for it.
        size_mb: About how much there is to download.
    """

    url: str
    sha256_prefix: str
    file: str
    size_mb: int


RELEASES = {
    "inception": Release(
        url=f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILES[1]}",
        sha256_prefix=INCEPTION_SHA256_PREFIX,
        file=INCEPTION_FILES[1],
        size_mb=INCEPTION_MB,
    )
}


def fetch(name: str, release: Release | None = None, folder: Path | None = None) -> Path:
    """Download a weight file into this program's cache, unless it is there already.

    Args:
        name: Name of the feature extractor.
        release: What to fetch; None means the published file.
        folder: Where to put it; None means the cache folder in which the extractor looks.

    Returns:
        Path of the file, whose sha256 was checked before it was put there.

    Raises:
        ConfigError: If nothing is published under that name.
        TryAgain: If the address does not answer.
        MissingInput: If it answers that there is no such file.
        CheckpointError: If the sha256 of what came is wrong; nothing is kept then.
    """
    if release is None and name not in RELEASES:
        raise ConfigError(f"there are no weights {name!r} to fetch", f"the names are {', '.join(RELEASES)}")
    wanted = release or RELEASES[name]
    target = (folder or own_cache()) / wanted.file
    if target.is_file() and digest_file(target).startswith(wanted.sha256_prefix):
        return target
    logging.getLogger("graftgan").info("fetching %s (%d MB)", wanted.url, wanted.size_mb)
    with atomic_path(target) as temporary:
        download(wanted.url, temporary)
        _check(temporary, wanted)
    return target


def _check(path: Path, wanted: Release) -> None:
    digest = digest_file(path)
    if not digest.startswith(wanted.sha256_prefix):
        raise CheckpointError(
            f"{wanted.url}: sha256 starts with {digest[: len(wanted.sha256_prefix)]} instead of "
            f"{wanted.sha256_prefix}; the {path.stat().st_size} bytes that came were thrown away",
            "try again; if it stays so, the network between changes what is downloaded",
        )
