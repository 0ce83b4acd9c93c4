"""Feature rows on disk, found by what was measured and how.

A file is keyed by the content digest of the images and the protocol id of the extractor, and holds both: a
file moved to another name is refused instead of silently compared.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from graftgan.contract import shared_path
from graftgan.errors import CheckpointError, ProtocolMismatch, TryAgain

Features = NDArray[np.float32]
_ORIGIN = "graftgan"
_log = logging.getLogger(__name__)


class FeatureCache:
    """Folder of feature files, safe for concurrent processes: files appear whole or not at all."""

    def __init__(self, root: Path) -> None:
        """Use a folder, made on the first write."""
        self.root = root

    def path(self, content_digest: str, protocol: str) -> Path:
        """Where the features of this content under this protocol are kept."""
        key = hashlib.sha256(f"{content_digest}\n{protocol}".encode()).hexdigest()
        return self.root / key[:2] / f"{key}.safetensors"

    def get(self, content_digest: str, protocol: str) -> Features | None:
        """Features ``[n, dim]``, or None where there are none; an unreadable file counts as none.

        Raises:
            ProtocolMismatch: the file holds another protocol or content than its name says.
        """
        path = self.path(content_digest, protocol)
        try:
            return load_features(path, protocol, content_digest) if path.is_file() else None
        except CheckpointError as error:
            _log.warning("feature cache: %s; computing again", error.message)
        # A folder that may not be entered.
        except OSError as error:
            _log.warning("feature cache: %s; computing again", error)
        return None

    def put(self, content_digest: str, protocol: str, features: Features) -> Path:
        """Store features ``[n, dim]``, replacing what was there.

        Raises:
            TryAgain, OSError: as `save_features`.
        """
        path = self.path(content_digest, protocol)
        save_features(path, features, protocol, content_digest)
        return path

    def keep(self, content_digest: str, protocol: str, features: Features) -> None:
        """Store features as `put` does, if that can be done: who has them can go on without."""
        try:
            self.put(content_digest, protocol, features)
        except (OSError, TryAgain) as error:
            _log.warning("feature cache: %s; what was computed is not kept", error)

    def get_or_compute(self, content_digest: str, protocol: str, compute: Callable[[], Features]) -> Features:
        """Stored features, else computed and stored; two processes at once both compute and one file stays.

        Raises:
            ProtocolMismatch: as `get`.
        """
        found = self.get(content_digest, protocol)
        if found is None:
            found = compute()
            self.keep(content_digest, protocol, found)
        return found


def save_features(path: Path, features: Features, protocol: str, content_digest: str) -> None:
    """Write a feature file by temporary name and rename; equal inputs give equal bytes.

    Raises:
        TryAgain: the disk is full.
        OSError: the folder cannot be written.
    """
    rows = np.ascontiguousarray(features, dtype=np.float32)
    # safetensors writes several metadata keys in an order that varies; one key keeps the bytes the same
    facts = {"content": content_digest, "protocol": protocol, "sha256": _sha256(rows)}
    origin = json.dumps(facts, sort_keys=True)
    payload = save({"features": rows}, metadata={_ORIGIN: origin})
    with shared_path(path) as temporary:
        temporary.write_bytes(payload)


def _sha256(rows: Features) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()


def load_features(path: Path, protocol: str, content_digest: str | None = None) -> Features:
    """Read a feature file, checking that it was made by the protocol (and of the content) expected.

    Raises:
        ProtocolMismatch: it was made otherwise.
        CheckpointError: it cannot be read.
    """
    try:
        with safe_open(path, framework="numpy") as stored:
            metadata = json.loads((stored.metadata() or {}).get(_ORIGIN, "{}"))
            features: Features = stored.get_tensor("features")
        if metadata.get("sha256") != _sha256(features):
            raise ValueError("its checksum differs")
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a feature file: {error}", "delete it; it is made again"
        ) from error
    expected = {"protocol": protocol} | ({"content": content_digest} if content_digest else {})
    for key, value in expected.items():
        if metadata.get(key) != value:
            raise ProtocolMismatch(
                f"{path}: {key} is {metadata.get(key)}, expected {value}",
                "delete the file, or measure with the extractor that made it",
            )
    return features
