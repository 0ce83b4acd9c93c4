from __future__ import annotations

from tracking.support import empty_store, place, store  # noqa: F401
