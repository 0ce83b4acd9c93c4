"""Ports for servers that a test starts."""

from __future__ import annotations

import random
import socket

LOWEST, HIGHEST = 10_000, 22_000
TWIN = 10_000
"""SeaweedFS puts its gRPC twin so far above a port."""


def free_port() -> int:
    """Return a port that is free, as is its twin.

    Both are below those that the system gives to clients (32768 on Linux). Who knocks at such a port again
    and again before its server is up is at last given that very port, is connected with itself, and keeps
    the server from it.
    """
    for _ in range(200):
        port = random.SystemRandom().randint(LOWEST, HIGHEST)
        if _is_free(port) and _is_free(port + TWIN):
            return port
    raise AssertionError("no free port")


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
