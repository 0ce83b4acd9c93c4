"""The heads of tables name the processor: ratios of one are not those of another."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest

from scripts import loaded

told: Any = loaded("processor")
CORES = os.cpu_count()
ZEN = """processor : 0
cpu family	: 26
model		: 17
model name	: AMD EPYC
flags		: fpu avx2 avx512f avx512_bf16
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f"{ZEN}\n{ZEN.replace('EPYC', 'other')}",
            "AMD EPYC (family 26, model 17, avx2, avx512f, avx512_bf16)",
        ),
        ("model name : Some\nflags : fpu\n", "Some (family ?, model ?)"),
    ],
)
def test_name_and_instructions_are_told(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert told.processor(tmp_path / "cpuinfo") == f"{CORES} x {expected}"


def test_a_kernel_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    assert told.processor(tmp_path / "none").startswith(f"{CORES} x ")


def test_every_table_of_times_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def say() -> str:
        return "A PROCESSOR"

    metrics, features, tables, growth, first = map(
        loaded, ("metrics", "features", "step_tables", "growth", "first_run")
    )
    for module in (metrics, features, tables, growth):
        monkeypatch.setattr(module, "processor", say)
    options = argparse.Namespace(threads=2, device=argparse.Namespace(type="cpu"), rounds=1)
    plan = growth.Plan(1.0, 1.0, 1.0, (1, 1), 1.0)
    pages = [
        metrics.table([], {"fp32": 1e9, "fp64": 1e9, "copy": 1e9}), features.table([], "random"),
        tables.place(options), growth.page([], plan, options, 1),
        first.table({"processor": "A PROCESSOR", "commit": "c", "setup_s": 1.0, "runs": [
            {"name": "x", "seconds": 1.0, "stages": {}, "load_before": 0.0,
             "kid": dict.fromkeys(first.ARMS, 0.0), "registered": ""}]}),
    ]  # fmt: skip
    assert all("A PROCESSOR" in page for page in pages)
