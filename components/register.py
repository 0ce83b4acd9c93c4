"""Registers the model and moves the champion alias if it is better."""

from __future__ import annotations

from components.base import component

register = component("register")
