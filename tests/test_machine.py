from __future__ import annotations

from pathlib import Path

import pytest

from graftgan import machine
from graftgan.machine import free_memory_bytes


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    3000 kB\n")
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert free_memory_bytes() == 3000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5\n")
    assert free_memory_bytes() == 3000 * 1024
    (tmp_path / "memory.max").write_text("2000005\n")
    assert free_memory_bytes() == 2_000_000
    (tmp_path / "meminfo").unlink()
    (tmp_path / "memory.max").unlink()
    assert free_memory_bytes() is None


def test_free_memory_is_a_plausible_number() -> None:
    free = free_memory_bytes()
    total = next(
        line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")
    )
    assert free is not None
    assert 0 < free < int(total.split()[1]) << 10
