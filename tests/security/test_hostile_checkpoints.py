from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from graftgan.checkpoints.content import open_content
from graftgan.checkpoints.readers import read
from graftgan.errors import CheckpointError
from graftgan.gans.stylegan2 import StyleGAN2Spec
from tests.checkpoints.files import (
    Persistent,
    nvidia_modules,
    nvidia_pickle,
    put,
    random_tensors,
    rosinality_tree,
    saved,
)
from tests.security.assembler import name, run_limited, stack_name, text, whole
from tests.security.hostile import (
    FORBIDDEN_NAMES,
    calls,
    executes,
    huge_lengths,
    nested_files,
    opcode_files,
)
from tests.security.hostile_archives import archive_files, other_files

FILES = opcode_files() | nested_files() | archive_files() | other_files()
MUTATIONS = 40


def refusal(path: Path) -> str:
    """Open and read a file, which must be refused."""
    with pytest.raises(CheckpointError) as error:
        read(open_content(path))
    assert error.value.exit_code == 5
    assert error.value.remedy
    assert str(path) in str(error.value) or "nested in a storage" in str(error.value)
    assert str(error.value).isprintable() or "\n  fix: " in str(error.value)
    return str(error.value)


def test_there_are_more_than_enough_hostile_files() -> None:
    assert len(FILES) + len(FORBIDDEN_NAMES) + len(huge_lengths()) > 150


@pytest.mark.parametrize("kind", FILES)
def test_a_hostile_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    data, says = FILES[kind]
    assert says in refusal(put(tmp_path / "file", data))


@pytest.mark.parametrize("path", FORBIDDEN_NAMES)
@pytest.mark.parametrize("form", ["GLOBAL", "STACK_GLOBAL"])
def test_a_name_outside_of_the_table_is_refused_and_named(tmp_path: Path, path: str, form: str) -> None:
    module, _, item = path.rpartition(".")
    named = name(path) if form == "GLOBAL" else stack_name(module, item)
    called = whole(named + text("true") + b"\x85R")
    assert f"global {path} " in refusal(put(tmp_path / "network.pkl", called))


@pytest.mark.parametrize("kind", calls(Path("canary")))
def test_nothing_is_executed(tmp_path: Path, kind: str) -> None:
    canary = tmp_path / "canary"
    payload = calls(canary)[kind]
    file = put(tmp_path / "network.pkl", payload)
    refusal(file)
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["REDUCE", "INST", "OBJ", "protocol 0", "open"])
def test_the_payloads_would_do_harm(tmp_path: Path, kind: str) -> None:
    canary = tmp_path / "canary"
    executes(calls(canary)[kind])
    assert canary.exists()


def test_the_source_inside_a_network_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "canary"
    monkeypatch.setattr("tests.checkpoints.files.TRAP", f"open({str(canary)!r}, 'w')")
    content = open_content(put(tmp_path / "network.pkl", nvidia_pickle(random_tensors())))
    read(content)
    assert not canary.exists()
    with nvidia_modules():
        assert str(canary) in Persistent("Layer", {}).__reduce__()[1][0]["module_src"]


@pytest.mark.parametrize("kind", huge_lengths())
def test_a_length_beyond_the_file_costs_no_memory(tmp_path: Path, kind: str) -> None:
    file = put(tmp_path / "network.pkl", huge_lengths()[kind])
    message = run_limited(lambda: refusal(file), spare_bytes=64 << 20)
    assert "bytes" in message or "length" in message or "characters" in message


CLAIMS = [
    "archive that claims a terabyte", "zip: storage larger than its member", "zip: bomb", "zip: many members",
    "legacy: huge claim", "legacy: many claims", "zip: huge directory", "safetensors: far away",
    "tensor that repeats one number", "huge memo place", "half a million opcodes", "nested lists",
    "the same list again and again", "byte array of a length", "huge array", "safetensors: long header",
]  # fmt: skip


def test_a_claim_beyond_the_file_costs_no_memory(tmp_path: Path) -> None:
    files = [put(tmp_path / f"{i}.bin", FILES[kind][0]) for i, kind in enumerate(CLAIMS)]
    messages = run_limited(lambda: [refusal(file) for file in files], spare_bytes=128 << 20)
    for kind, message in zip(CLAIMS, messages, strict=True):
        assert FILES[kind][1] in message


def test_the_limit_on_memory_bites(tmp_path: Path) -> None:
    def greedy() -> str:
        try:
            return str(len(bytearray(200 << 20)))
        except MemoryError:
            return "refused"

    assert run_limited(greedy, spare_bytes=64 << 20) == "refused"


def test_many_empty_collections_stay_within_bounds(tmp_path: Path) -> None:
    crowd = whole(b"](" + b"\x8f" * 399_000 + b"e")
    file = put(tmp_path / "network.pkl", crowd)
    assert "no known checkpoint" in run_limited(lambda: refusal(file), spare_bytes=200 << 20)


def test_a_tree_that_doubles_at_every_level_takes_no_time(tmp_path: Path) -> None:
    file = put(tmp_path / "network.pkl", whole(b")" + b"2\x86" * 60))
    assert "no known checkpoint" in run_limited(lambda: refusal(file), timeout_s=20)


@pytest.mark.parametrize("use", [b"2\x93", b"Q", b"R", text("x") + b"s", b"\x90"])
def test_what_doubles_at_every_level_takes_no_time_in_a_message(tmp_path: Path, use: bytes) -> None:
    doubled = b"(" + b"}" + b")" + b"2\x86" * 60
    file = put(tmp_path / "network.pkl", whole(doubled + use))
    assert len(run_limited(lambda: refusal(file), timeout_s=20)) < 2000


def small_files() -> dict[str, bytes]:
    """Good files of each container, small enough to be read hundreds of times."""
    spec = StyleGAN2Spec(resolution=32, z_dim=2, w_dim=2, mapping_layers=1, channel_base=32, channel_max=1)
    tree = {"a": torch.arange(6.0).reshape(2, 3), "b": [1, "x", None], "c": {"d": torch.ones(2)}}
    with nvidia_modules():
        import pickle

        top = Persistent("Generator", {"z_dim": 4})
        top.put("mapping.fc0.weight", torch.ones(2, 2), False)
        top.put("mapping.w_avg", torch.ones(2), True)
        network = pickle.dumps({"G_ema": top, "training_set_kwargs": None}, 4)
    return {
        "network": network,
        "zip": saved(tree),
        "legacy": saved(tree, legacy=True),
        "safetensors": save({"a": torch.ones(2, 2), "b": torch.zeros(3)}),
        "rosinality": saved(rosinality_tree(random_tensors(spec), spec)),
    }


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat or overwrite a few places."""
    raw = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place, kind = rng.randrange(len(raw)), rng.randrange(6)
        if kind == 0:
            raw[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            raw[place] = rng.randrange(256)
        elif kind == 2:
            del raw[place : place + rng.randint(1, 40)]
        elif kind == 3:
            raw[place:place] = raw[place : place + rng.randint(1, 40)]
        elif kind == 4:
            raw[place : place + 4] = struct.pack("<I", rng.choice([0, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 20]))
        else:
            raw[place:place] = rng.choice([b"cos\nsystem\n", b"R", b"b", b"\x81", b"Q", b"(", b"2", b"\x93"])
        raw = raw or bytearray(b"\x80")
    return bytes(raw)


@pytest.mark.parametrize("kind", small_files())
def test_mutations_of_good_files_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    good = small_files()[kind]
    open_content(put(tmp_path / "good", good))

    def fuzz() -> list[str]:
        rng, outcomes = random.Random(hash_of(kind)), []
        for number in range(MUTATIONS):
            file = put(tmp_path / f"{number}", mutated(good, rng))
            outcomes.append(outcome(file))
        return outcomes

    outcomes = run_limited(fuzz, timeout_s=120)
    assert len(outcomes) == MUTATIONS
    assert outcomes.count("refused") > MUTATIONS // 4
    assert set(outcomes) <= {"refused", "opened"}, outcomes


def hash_of(kind: str) -> int:
    return sum(kind.encode())


def outcome(file: Path) -> str:
    """Open a mutated file and read what opens; a change within numbers or names may go unnoticed."""
    opened = False
    try:
        content = open_content(file)
        opened = True
        _walk(content.tree)
        read(content)
    except CheckpointError as error:
        if error.exit_code != 5 or (str(file) not in str(error) and "nested" not in str(error)):
            return repr(error)
    except BaseException as error:
        return repr(error)
    return "opened" if opened else "refused"


def _walk(value: Any) -> None:
    """Touch all numbers, as what follows will."""
    if isinstance(value, dict):
        for item in value.values():
            _walk(item)
    elif isinstance(value, torch.Tensor) and value.is_floating_point():
        value.sum().item()
