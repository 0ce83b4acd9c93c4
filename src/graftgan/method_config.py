"""Sections of `finetune` that one method, prior or penalty reads."""

from __future__ import annotations
