"""Writes the one-file HTML report."""

from __future__ import annotations

from components.base import component

report = component("report")
