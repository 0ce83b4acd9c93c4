"""Connections of the model server that nobody may hold without asking for anything."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S = 10.0


class PunctualProtocol(H11Protocol):
    """HTTP over one connection, which is closed if a request's headers take too long to come.

    uvicorn itself waits for headers without end: a few dozen silent connections would take all there are. The
    time runs from the opening of the connection or, on one that is used again, from the first byte after the
    last answer; more bytes do not prolong it. An idle connection after an answer is left to uvicorn's
    keep-alive.
    """

    headers_s: ClassVar[float] = HEADERS_S
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first headers."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take bytes, which may begin, continue or complete the headers."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop to wait."""
        self._stop()
        super().connection_lost(exc)

    def _waiting(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        if not self._waiting():
            self._stop()
        elif self._late is None:
            self._late = self.loop.call_later(self.headers_s, self._give_up)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        if self._waiting():
            self.transport.close()
