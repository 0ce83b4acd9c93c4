"""The guard before the model server, spoken to without a server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from graftgan.guard import Guard, Message, Receive, Send, json_fault

JSON = (b"Content-Type", b"application/json; charset=utf-8")


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """Answer with the body, as an application that reads it in parts."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def ask(parts: list[bytes], *headers: tuple[bytes, bytes], method: str = "POST") -> tuple[int, bytes]:
    waiting: list[Any] = [
        {"type": "http.request", "body": part, "more_body": number < len(parts) - 1}
        for number, part in enumerate(parts)
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "headers": headers}
    asyncio.run(Guard(echo, max_body_bytes=100)(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


def test_a_good_body_reaches_the_application_whole() -> None:
    assert ask([b'{"a"', b": 1", b"}"], JSON) == (200, b'{"a": 1}')
    assert ask([b"seed\n1\n"], (b"content-type", b"Text/CSV")) == (200, b"seed\n1\n")


def test_other_methods_pass() -> None:
    assert ask([b""], method="GET") == (200, b"")


def test_a_long_body_is_cut_off_while_it_comes() -> None:
    status, body = ask([b"x" * 60, b"x" * 60, b"never read"], JSON)
    assert status == 413 and "longer than 100 bytes" in json.loads(body)["message"]
    assert ask([b'"' + b"x" * 98 + b'"'], JSON)[0] == 200, "exactly as long as allowed"


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": (JSON,)}
    guard = Guard(echo, body_s=0.1)
    asyncio.run(asyncio.wait_for(guard(scope, receive, send), 10))
    assert sent[0]["status"] == 408 and b"within 0.1 s" in sent[1]["body"]


@pytest.mark.parametrize("headers", [(), ((b"content-type", b"application/x-parquet"),)])
def test_other_content_types_are_refused(headers: tuple[tuple[bytes, bytes], ...]) -> None:
    assert ask([b"{}"], *headers)[0] == 415


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[" * 200_000, "too deeply"),
        (b"9" * 5000, "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"", "not JSON"),
    ],
)
def test_what_is_no_json_is_told(body: bytes, words: str) -> None:
    assert words in json_fault(body)


def test_json_has_no_fault() -> None:
    assert json_fault(b'{"dataframe_records": [{"seed": 1, "truncation_psi": NaN}]}') == ""
