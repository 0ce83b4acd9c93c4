"""Downloads from real servers, plain and with TLS, honest and hostile."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from graftgan.checkpoints import downloading as module
from graftgan.checkpoints.downloading import download, is_public
from graftgan.errors import CheckpointError, GraftganError, MissingInput, TryAgain

from .web import PRIVATE, PUBLIC, certified, serving


@pytest.fixture
def server() -> Iterator[str]:
    with serving() as (address, _):
        yield address


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """What a server needs that this process trusts."""
    certificate, context = certified(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return context


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("404", MissingInput),
        ("410", MissingInput),
        ("403", MissingInput),
        ("503", TryAgain),
        ("429", TryAgain),
    ],
)
def test_what_a_server_says_decides_whether_to_try_again(
    server: str, tmp_path: Path, word: str, kind: type[GraftganError]
) -> None:
    with pytest.raises(kind, match=word) as error:
        download(f"{server}/{word}", tmp_path / "x")
    assert error.value.remedy


def test_a_server_that_is_not_there_may_come_back(tmp_path: Path) -> None:
    with pytest.raises(TryAgain, match="could not be fetched"):
        download("http://127.0.0.1:9/gan.safetensors", tmp_path / "x")


def test_a_download_is_whole(server: str, tmp_path: Path) -> None:
    download(f"{server}/fine", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"12345"


def test_an_answer_cut_short_is_noticed(server: str, tmp_path: Path) -> None:
    with pytest.raises(TryAgain, match="could not be fetched"):
        download(f"{server}/cut", tmp_path / "x")


def test_endless_answers_are_cut_off(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DOWNLOAD_BYTES", 4)
    with pytest.raises(CheckpointError, match="more than"):
        download(f"{server}/fine", tmp_path / "x")


def test_a_full_disk_is_no_network_trouble(server: str) -> None:
    with pytest.raises(OSError, match="No space left"):
        download(f"{server}/fine", Path("/dev/full"))


def test_a_length_that_is_no_number_is_refused(server: str, tmp_path: Path) -> None:
    with pytest.raises(TryAgain, match="many bytes were promised, 5 came"):
        download(f"{server}/odd", tmp_path / "x")


# Where servers lead


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_between_equals_is_followed(tls: ssl.SSLContext, tmp_path: Path, status: int) -> None:
    with serving(tls=tls) as (first, handler), serving(tls=tls) as (second, _):
        handler.leads_to = f"{second}/fine"
        download(f"{first}/go{status}", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"12345"


def test_a_redirect_within_a_server_and_one_up_to_https_are_followed(
    tls: ssl.SSLContext, tmp_path: Path
) -> None:
    with serving() as (plain, handler), serving(tls=tls) as (safe, _):
        for handler.leads_to in ("/fine", f"{safe}/fine"):
            download(f"{plain}/go302", tmp_path / "x")
            assert (tmp_path / "x").read_bytes() == b"12345"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_nothing_leads_from_https_to_http(tls: ssl.SSLContext, tmp_path: Path, status: int) -> None:
    with serving(tls=tls) as (safe, handler), serving() as (plain, asked):
        handler.leads_to = f"{plain}/fine?sig=pl4nted"
        with pytest.raises(CheckpointError, match="from https to http") as caught:
            download(f"{safe}/go{status}", tmp_path / "x")
        assert asked.asked == [] and "pl4nted" not in str(caught.value) and caught.value.remedy
    assert not (tmp_path / "x").exists()


def test_nothing_leads_from_https_to_http_over_a_stop_between(tls: ssl.SSLContext, tmp_path: Path) -> None:
    with serving(tls=tls) as (first, one), serving(tls=tls) as (second, two), serving() as (plain, asked):
        one.leads_to, two.leads_to = f"{second}/go302", f"{plain}/fine"
        with pytest.raises(CheckpointError, match="from https to http"):
            download(f"{first}/go302", tmp_path / "x")
        assert two.asked == ["go302"] and asked.asked == []


@pytest.mark.parametrize("scheme", ["file", "ftp", "data", "gopher"])
def test_nothing_leads_to_files_of_this_machine(tmp_path: Path, scheme: str) -> None:
    (tmp_path / "secret").write_text("secret")
    with serving() as (plain, handler):
        handler.leads_to = f"{scheme}://{tmp_path}/secret"
        with pytest.raises(CheckpointError, match=f"to {scheme}:, which is no address of a server"):
            download(f"{plain}/go302", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_no_public_host_leads_into_a_private_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One loopback address plays the public host; the private one may lead where it likes."""
    monkeypatch.setattr(module, "_is_public", lambda address: address == PUBLIC)
    with serving(PUBLIC) as (public, leads), serving(PRIVATE) as (private, inner):
        leads.leads_to, inner.leads_to = f"{private}/fine", f"{public}/fine"
        with pytest.raises(CheckpointError, match="from a public host into a private network"):
            download(f"{public}/go302", tmp_path / "x")
        assert inner.asked == []
        download(f"{private}/go302", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"12345"


@pytest.mark.parametrize("to", ["http://[::1", "http://a b/", "//", "http://\x01", "go302", ""])
def test_odd_and_endless_redirects_end(tmp_path: Path, to: str) -> None:
    with serving() as (plain, handler):
        handler.leads_to = to
        with pytest.raises(GraftganError) as caught:
            download(f"{plain}/go302", tmp_path / "x")
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("host", "public"),
    [
        ("8.8.8.8", True), ("2001:4860:4860::8888", True), ("10.0.0.1", False), ("192.168.1.1", False),
        ("172.16.0.1", False), ("127.0.0.1", False), ("localhost", False), ("0.0.0.0", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("::1", False), ("fe80::1", False),
        ("fd00::1", False), ("::ffff:10.0.0.1", False), ("2002:7f00:0001::", False), ("2130706433", False),
        ("0x7f.1", False), ("no such host.invalid", True),
    ],
)  # fmt: skip
def test_private_hosts_are_known_however_they_are_written(host: str, public: bool) -> None:
    assert is_public(host) is public
