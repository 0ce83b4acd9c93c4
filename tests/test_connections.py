"""Connections that wait for headers, spoken to over sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
import uvicorn
from ports import free_port

from graftgan.connections import PunctualProtocol
from graftgan.guard import Message, Receive, Send

HEADERS_S = 0.6
KEEP_ALIVE_S = 2
ASK = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
WITH_BODY = ASK[:-2] + b"Content-Length: 999\r\n\r\n"


class Quick(PunctualProtocol):
    headers_s = HEADERS_S


async def hello(scope: Message, receive: Receive, send: Send) -> None:
    """Answer without a look at the body; at /late after longer than headers may take."""
    if scope["path"] == "/late":
        await asyncio.sleep(2 * HEADERS_S)
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hi"})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    found = free_port()
    config = uvicorn.Config(
        hello, "127.0.0.1", found, http=Quick, ws="none", lifespan="off", log_level="error",
        timeout_keep_alive=KEEP_ALIVE_S, limit_concurrency=8,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield found
    server.should_exit = True
    thread.join(10)


def opened(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def answer(link: socket.socket) -> bytes:
    found = b""
    while not found.endswith(b"hi") and (part := link.recv(4096)):
        found += part
    return found


def closed_after(link: socket.socket, sent: bytes = b"") -> float:
    """Return after how many seconds the server closes, while a byte comes every tenth of a second."""
    started = time.monotonic()
    link.settimeout(0.1)
    left = list(sent)
    while time.monotonic() - started < 10:
        try:
            if link.recv(4096) == b"":
                break
        except TimeoutError:
            if left:
                link.sendall(bytes([left.pop(0)]))
        except ConnectionError:
            break
    return time.monotonic() - started


def test_a_silent_connection_is_closed(port: int) -> None:
    with closing(opened(port)) as link:
        assert 0.5 * HEADERS_S < closed_after(link) < 5


def test_headers_that_trickle_in_are_not_waited_for(port: int) -> None:
    with closing(opened(port)) as link:
        assert closed_after(link, b"GET /ping HTTP/1.1\r\nX: " + b"a" * 1000) < 5


def test_headers_that_come_in_time_in_parts_are_taken(port: int) -> None:
    with closing(opened(port)) as link:
        for part in (ASK[:9], ASK[9:20], ASK[20:]):
            link.sendall(part)
            time.sleep(0.05)
        assert answer(link).startswith(b"HTTP/1.1 200")


def test_an_answer_may_take_longer_than_headers(port: int) -> None:
    with closing(opened(port)) as link:
        link.sendall(ASK.replace(b"ping", b"late"))
        assert answer(link).startswith(b"HTTP/1.1 200")


def test_an_idle_connection_is_kept_after_an_answer(port: int) -> None:
    with closing(opened(port)) as link:
        for pause_s in (0.0, 1.8 * HEADERS_S, 0.0):
            time.sleep(pause_s)
            link.sendall(ASK)
            assert answer(link).startswith(b"HTTP/1.1 200"), f"closed within {pause_s} s"
        assert HEADERS_S < closed_after(link) < KEEP_ALIVE_S + 3


@pytest.mark.parametrize("first", [ASK, WITH_BODY], ids=["next", "body"])
def test_a_byte_after_an_answer_does_not_hold_the_connection(port: int, first: bytes) -> None:
    with closing(opened(port)) as link:
        link.sendall(first)
        assert answer(link).startswith(b"HTTP/1.1 200")
        link.sendall(b"G")
        assert closed_after(link) < KEEP_ALIVE_S + 3


def test_silent_connections_give_the_others_their_turn_back(port: int) -> None:
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(closing(opened(port)))
        with closing(opened(port)) as link:
            link.sendall(ASK)
            assert b" 503 " in link.recv(4096).partition(b"\r\n")[0]
        time.sleep(2 * HEADERS_S)
        with closing(opened(port)) as link:
            link.sendall(ASK)
            assert answer(link).startswith(b"HTTP/1.1 200")
