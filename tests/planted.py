"""Secrets in every variable that this program or its libraries read, and a search for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

MARK = "planted-7f3a9c"
PLANTED = {
    "MLFLOW_TRACKING_USERNAME": "somebody",
    "MLFLOW_TRACKING_PASSWORD": f"{MARK}-password",
    "MLFLOW_TRACKING_TOKEN": f"{MARK}-token",
    "MLFLOW_TRACKING_URI": f"http://somebody:{MARK}-uri@127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": f"{MARK}-key",
    "AWS_SECRET_ACCESS_KEY": f"{MARK}-secret",
}


def leaks(texts: Mapping[str, bytes], *others: str) -> list[str]:
    """Return where the mark, or another secret, occurs."""
    wanted = [secret.encode() for secret in (MARK, *others)]
    return [place for place, text in texts.items() for secret in wanted if secret in text]


def left(root: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder, and their names."""
    return {str(path): path.read_bytes() + str(path).encode() for path in root.rglob("*") if path.is_file()}
