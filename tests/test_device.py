from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graftgan import device
from graftgan.device import computes_bf16, pick_device, pick_dtype, precision_name
from graftgan.errors import ConfigError

CPU = torch.device("cpu")


def test_auto_takes_a_gpu_where_there_is_one() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize("name", ["", "gpu", "meta", "mps", "cuda:", "cuda:-1", "cuda:x", "CPU", "cpu cuda"])
def test_a_name_that_is_no_device_of_ours_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a device") as error:
        pick_device(name)
    assert "runtime.device" in error.value.message
    assert "auto" in error.value.remedy
    assert error.value.exit_code == 2


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="not on this machine"):
        pick_device("cuda:63")


def test_float32_is_exact_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with torch.backends.cudnn.flags(allow_tf32=True):
        pick_device("cpu")
        assert torch.backends.cudnn.allow_tf32
        assert pick_device("auto") == torch.device("cuda")
        assert not torch.backends.cudnn.allow_tf32


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_is_refused_on_a_machine_without() -> None:
    with pytest.raises(ConfigError, match="not on this machine"):
        pick_device("cuda")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 avx512f avx512_bf16", True),
        ("fpu amx_tile amx_bf16", True),
        ("fpu avx2 avx512f", False),
        ("", False),
    ],
)
def test_bf16_on_a_cpu_needs_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, expected: bool
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags : {flags}\n")
    monkeypatch.setattr(device, "Path", lambda path: cpuinfo)
    assert computes_bf16(CPU) is expected
    assert pick_dtype("auto", CPU) is (torch.bfloat16 if expected else torch.float32)


def test_a_system_that_does_not_tell_gets_fp32(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(device, "Path", lambda path: tmp_path / "absent")
    assert computes_bf16(CPU) is False


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(ConfigError, match="fp16 needs a GPU") as error:
        pick_dtype("fp16", CPU)
    assert "bf16 or fp32" in error.value.remedy
    assert pick_dtype("fp16", torch.device("cuda")) is torch.float16


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_names_and_types_of_numbers_correspond(name: str) -> None:
    dtype = pick_dtype(name, CPU)
    assert precision_name(dtype) == name
    assert torch.finfo(dtype).bits == int(name[2:])
