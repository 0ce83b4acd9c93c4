"""Scores the adapted models on held-out images."""

from __future__ import annotations

from components.base import component

evaluate = component("evaluate")
