"""An HTTP proxy on the loopback interface that fails a share of the requests, as tired servers do."""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KINDS = ("500", "503", "stall", "cut")
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "proxy-connection"}
METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE")


class FaultProxy:
    """Stands before a server on `port` and fails `rate` of the requests.

    `500` and `503` answer so at once; `stall` says nothing for `stall_s` and hangs up; `cut` hangs up in the
    middle of the answer's body.

    Attributes:
        rate: Share of the requests that fail; may be changed at any time.
        kinds: Faults to draw from.
        requests: Number of requests so far.
        failed: Number of faults so far, by kind.
    """

    def __init__(self, port: int, seed: int = 0) -> None:
        self.rate, self.kinds, self.stall_s = 0.0, KINDS, 1.5
        self.requests = 0
        self.failed = dict.fromkeys(KINDS, 0)
        self._upstream, self._random, self._lock = port, random.Random(seed), threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: Any) -> None:
                pass

        for method in METHODS:
            setattr(Handler, f"do_{method}", self._answerer())
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def _answerer(self) -> Callable[[BaseHTTPRequestHandler], None]:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            # A client that gave up is no fault of ours.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._answer(handler)

        return answer

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def kill(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def reset(self) -> None:
        with self._lock:
            self.requests, self.failed, self.rate = 0, dict.fromkeys(KINDS, 0), 0.0

    def _draw(self) -> str:
        with self._lock:
            self.requests += 1
            if self._random.random() >= self.rate:
                return ""
            kind = self._random.choice(self.kinds)
            self.failed[kind] += 1
            return kind

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = _body(handler)
        fault = self._draw()
        if fault in ("500", "503"):
            text = b"<Error><Code>InternalError</Code><Message>planned</Message></Error>"
            handler.send_response(int(fault))
            handler.send_header("Content-Length", str(len(text)))
            handler.end_headers()
            if handler.command != "HEAD":
                handler.wfile.write(text)
            return
        if fault == "stall":
            time.sleep(self.stall_s)
            handler.close_connection = True
            return
        self._forward(handler, body, cut=fault == "cut")

    def _forward(self, handler: BaseHTTPRequestHandler, body: bytes, cut: bool) -> None:
        link = http.client.HTTPConnection("127.0.0.1", self._upstream, timeout=60)
        link.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
        for key, value in handler.headers.items():
            if key.lower() not in HOP_BY_HOP:
                link.putheader(key, value)
        if "Content-Length" not in handler.headers and body:
            link.putheader("Content-Length", str(len(body)))
        link.endheaders(body or None)
        answer = link.getresponse()
        content = answer.read()
        handler.send_response_only(answer.status, answer.reason)
        for key, value in answer.getheaders():
            if key.lower() not in HOP_BY_HOP | {"content-length"}:
                handler.send_header(key, value)
        length = answer.getheader("Content-Length") if handler.command == "HEAD" else str(len(content))
        handler.send_header("Content-Length", length or "0")
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2] if cut else content)
        # Nothing to cut in an empty body, but the connection goes all the same.
        handler.close_connection = cut or handler.close_connection
        link.close()


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Transfer-Encoding", "").lower() == "chunked":
        parts = []
        while size := int(handler.rfile.readline().split(b";")[0], 16):
            parts.append(handler.rfile.read(size))
            handler.rfile.readline()
        while handler.rfile.readline().strip():
            pass
        return b"".join(parts)
    return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
