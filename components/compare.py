"""Compares methods and seeds and hands on the best one's models and scores."""

from __future__ import annotations

from components.base import component

compare = component("compare")
