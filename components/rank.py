"""Ranks the source checkpoints and chooses one."""

from __future__ import annotations

from components.base import component

rank = component("rank")
