"""Fetches a file by its address, and follows a server only to where it is as safe as that address was."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

from graftgan.errors import CheckpointError, MissingInput, TryAgain
from graftgan.remote import fetch_file, is_address

MAX_DOWNLOAD_BYTES = 4 << 30
CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30
BY_HAND = "see who sends it there; if that is meant, fetch the file by hand and give its path"


def download(url: str, target: Path) -> None:
    """Write what `url` holds to `target`.

    Raises:
        TryAgain: If the address does not answer.
        MissingInput: If it answers that there is nothing.
        CheckpointError: If it holds more than 4 GiB, or leads to an address that `refuse_redirect` refuses.
        OSError: If `target` cannot be written.
    """
    if is_address(url):
        fetch_file(url, target)
        return
    written = 0
    try:
        with _open(url) as answer, target.open("wb") as file:
            while chunk := answer.read(CHUNK_BYTES):
                written += len(chunk)
                if written > MAX_DOWNLOAD_BYTES:
                    raise CheckpointError(
                        f"{url} holds more than {MAX_DOWNLOAD_BYTES >> 30} GiB", "fetch it by hand"
                    )
                file.write(chunk)
            promised = answer.headers.get("Content-Length")
        if promised is not None and not (promised.isdecimal() and int(promised) == written):
            raise http.client.HTTPException(f"{promised:.40} bytes were promised, {written} came")
    except urllib.error.URLError as error:
        refused = isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 404, 410)
        if refused or isinstance(error.reason, FileNotFoundError):
            raise MissingInput(f"{url} could not be fetched: {error}", "correct the address") from error
        raise TryAgain(f"{url} could not be fetched: {error}", "check the address and the network") from error
    # What a server names may be no address at all, which is a ValueError.
    except (ConnectionError, TimeoutError, http.client.HTTPException, ValueError) as error:
        raise TryAgain(f"{url} could not be fetched: {error}", "check the address and the network") from error


def refuse_redirect(first: str, to: str) -> None:
    """Refuse an address that a server sends us to, if it is less safe than the one we were given.

    From https nothing leads to anything but https, nothing at all leads to files of this machine, and no
    public host leads into a private network.

    Args:
        first: The address that was given.
        to: The address that a server names.

    Raises:
        CheckpointError: Naming both.
    """
    start, end = urlsplit(first), urlsplit(to)
    why = ""
    if end.scheme not in ("https", "http"):
        why = f"to {end.scheme}:, which is no address of a server"
    elif start.scheme == "https" and end.scheme != "https":
        why = "from https to http, where anybody between can change it"
    elif is_public(start.hostname) and not is_public(end.hostname):
        why = "from a public host into a private network"
    if why:
        raise CheckpointError(f"{first} sends us to {to:.300}: {why}", BY_HAND)


def is_public(host: str | None) -> bool:
    """Tell whether all addresses of a host are public; one that cannot be looked up counts as public.

    Such a name is a proxy's to look up, or the connection fails anyway.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True
    return all(_is_public(str(address[0])) for *_, address in found)


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    inner = getattr(found, "ipv4_mapped", None) or getattr(found, "sixtofour", None) or found
    return bool(found.is_global and inner.is_global)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects that are as safe as the address that was given."""

    def __init__(self, first: str) -> None:
        self._first = first

    def http_error_302(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
    ) -> Any:
        """Look at the new address, which the library refuses in words of its own if it is a file."""
        to = headers.get("location") or headers.get("uri")
        if to is not None:
            refuse_redirect(self._first, urljoin(req.full_url, to))
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _open(url: str) -> Any:
    return urllib.request.build_opener(_Redirects(url)).open(url, timeout=TIMEOUT_S)
