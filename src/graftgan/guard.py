"""What stands before MLflow's model server, so that its reader sees only bodies that it can read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 1 << 20
BODY_S = 20.0
TYPES = ("application/json", "text/csv")


class TooLargeError(Exception):
    """The body is longer than any request of the allowed rows could be."""


class Guard:
    """An ASGI application around another one that answers malformed requests itself.

    Taken are bodies of at most 1 MiB, in JSON that can be parsed or in CSV; anything else is answered with a
    4xx before the inner application, whose reader would fail at it with a 500, sees it. So is a body that
    takes too long to come: a few dozen of them would take all connections.

    Args:
        app: The inner application.
        max_body_bytes: Longest body.
        body_s: Longest wait for a body.
    """

    def __init__(self, app: App, max_body_bytes: int = MAX_BODY_BYTES, body_s: float = BODY_S) -> None:
        self._app = app
        self._max_body_bytes, self._body_s = max_body_bytes, body_s

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one connection's event."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers = {key.lower(): value for key, value in scope["headers"]}
        kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
        if kind not in TYPES:
            await refuse(send, 415, f"the content type is {kind[:60]!r}; send one of {', '.join(TYPES)}")
            return
        try:
            async with asyncio.timeout(self._body_s):
                body = await self._body(receive)
        except TimeoutError:
            await refuse(send, 408, f"the body did not come within {self._body_s:g} s")
            return
        except TooLargeError:
            await refuse(send, 413, f"the body is longer than {self._max_body_bytes} bytes")
            return
        if kind == TYPES[0] and (fault := json_fault(body)):
            await refuse(send, 400, fault)
            return
        await self._app(scope, replayed(body, receive), send)

    async def _body(self, receive: Receive) -> bytes:
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max_body_bytes:
                raise TooLargeError
        return bytes(body)


def json_fault(body: bytes) -> str:
    """Return why a body cannot be read as JSON, or an empty text."""
    try:
        json.loads(body)
    except RecursionError:
        return "the body is nested too deeply"
    except ValueError as error:
        return f"the body is not JSON: {error}"[:200]
    return ""


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return what gives an application the body that was read already, and then what else comes."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def refuse(send: Send, status: int, message: str) -> None:
    """Answer with an error in the form of MLflow's."""
    text = json.dumps({"error_code": "BAD_REQUEST", "message": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
    # What is left of the body would pass for the next request.
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
