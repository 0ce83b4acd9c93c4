"""Reads, checks, splits and packs the image set."""

from __future__ import annotations

from components.base import component

prepare = component("prepare")
