"""Computes the features of one source's samples, or of all that the configuration names."""

from __future__ import annotations

from components.base import component

rank_source = component("rank-source", items=("sources",))
