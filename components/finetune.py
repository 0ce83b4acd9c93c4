"""Adapts the chosen source, beside its control runs."""

from __future__ import annotations

from components.base import component

finetune = component("finetune")
