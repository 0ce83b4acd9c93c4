from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from graftgan.errors import CheckpointError, ConfigError, MissingInput, TryAgain
from graftgan.metrics.features import weights as features
from graftgan.metrics.features.weights import INCEPTION_ENV, find_inception
from graftgan.weights import RELEASES, Release, fetch

CONTENT = bytes(range(256)) * 5000


class Served(SimpleHTTPRequestHandler):
    """Serves a folder without a word; `/short/` breaks off half way, `/moved/` redirects."""

    asked: list[str]

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/moved"))
            self.end_headers()
        elif self.path.startswith("/short/"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[: len(CONTENT) // 2])
        else:
            super().do_GET()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "w.pth").write_bytes(CONTENT)
    handler = type("Handler", (Served,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path / "www"))) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", handler.asked  # type: ignore[attr-defined]
        http.shutdown()
        thread.join()


@pytest.fixture
def release(server: tuple[str, list[str]]) -> Release:
    prefix = hashlib.sha256(CONTENT).hexdigest()[:8]
    return Release(f"{server[0]}/w.pth", prefix, "pt_inception-2015-12-05-6726825d.pth", 1)


def test_a_file_of_the_right_hash_is_put_in_place_once(
    release: Release, server: tuple[str, list[str]], tmp_path: Path
) -> None:
    path = fetch("inception", release, tmp_path / "cache")
    assert path == tmp_path / "cache" / release.file
    assert path.read_bytes() == CONTENT
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [release.file]
    assert fetch("inception", release, tmp_path / "cache") == path
    assert server[1] == ["/w.pth"]


def test_a_damaged_file_in_the_cache_is_replaced(release: Release, tmp_path: Path) -> None:
    (tmp_path / release.file).write_bytes(CONTENT[:-1])
    assert fetch("inception", release, tmp_path).read_bytes() == CONTENT


def test_redirections_are_followed(release: Release, tmp_path: Path) -> None:
    moved = replace(release, url=release.url.replace("/w.pth", "/moved/w.pth"))
    assert fetch("inception", moved, tmp_path / "cache").read_bytes() == CONTENT


def test_an_address_without_the_file_is_a_missing_input(release: Release, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="absent could not be fetched"):
        fetch("inception", replace(release, url=f"{release.url}.absent"), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_has_the_wrong_hash_is_thrown_away(release: Release, tmp_path: Path) -> None:
    wrong = replace(release, sha256_prefix="6726825d")
    cache = tmp_path / "cache"
    with pytest.raises(CheckpointError, match="instead of 6726825d") as caught:
        fetch("inception", wrong, cache)
    assert caught.value.exit_code == 5
    assert wrong.url in caught.value.message
    assert list(cache.iterdir()) == []


def test_a_download_that_breaks_off_leaves_nothing_and_may_be_tried_again(
    release: Release, tmp_path: Path
) -> None:
    with pytest.raises(TryAgain, match="could not be fetched"):
        fetch(
            "inception", replace(release, url=release.url.replace("/w.pth", "/short/w.pth")), tmp_path / "c"
        )
    assert list((tmp_path / "c").iterdir()) == []


def test_an_address_that_does_not_answer_means_try_again(release: Release, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/w.pth"
    for away in (url, "http://host.invalid/w.pth"):
        with pytest.raises(TryAgain, match="could not be fetched") as caught:
            fetch("inception", replace(release, url=away), tmp_path / "cache")
        assert caught.value.exit_code == 75
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_extractor_finds_what_was_fetched(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (INCEPTION_ENV, "GRAFTGAN_CACHE", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(features, "INCEPTION_SHA256_PREFIX", release.sha256_prefix)
    with pytest.raises(ConfigError):
        find_inception()
    path = fetch("inception", release)
    assert path.is_relative_to(tmp_path)
    assert find_inception() == path


def test_only_published_names_can_be_fetched() -> None:
    with pytest.raises(ConfigError, match="no weights 'vgg'") as caught:
        fetch("vgg")
    assert "inception" in caught.value.remedy


def test_the_published_file_is_the_official_one() -> None:
    official = RELEASES["inception"]
    assert official.url.startswith("https://github.com/mseitzer/pytorch-fid/releases/")
    assert official.sha256_prefix in official.url
    assert official.url.endswith(official.file)


def test_the_size_told_beforehand_is_that_of_the_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (INCEPTION_ENV, "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GRAFTGAN_CACHE", str(tmp_path))
    with pytest.raises(ConfigError) as error:
        find_inception()
    assert f"({RELEASES['inception'].size_mb} MB, checks the hash)" in error.value.remedy
