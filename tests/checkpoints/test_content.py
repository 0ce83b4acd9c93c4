from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from graftgan.checkpoints import content as module
from graftgan.checkpoints.content import open_content
from graftgan.checkpoints.store import save_gan
from graftgan.checkpoints.unpickle import Stub
from graftgan.errors import CheckpointError, MissingInput
from graftgan.gans.base import build
from tests.checkpoints.files import (
    TINY,
    nvidia_pickle,
    ordered,
    part,
    put,
    random_tensors,
    rosinality_tree,
    saved,
)
from tests.security.assembler import torch_zip

TREE: dict[str, Any] = {
    "net": ordered({"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}),
    "list": [1, 2.5, "x", None, (True, b"y")],
    "view": torch.arange(10.0)[2:8:2],
}


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, torch.Tensor):
        return torch.equal(found, expected) and found.dtype == expected.dtype
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[k], expected[k]) for k in expected)
    if isinstance(expected, (list, tuple)):
        return len(found) == len(expected) and all(map(same, found, expected))
    return bool(found == expected)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        open_content(path)
    assert error.value.exit_code == 5
    return str(error.value)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["a.pt", "network.pkl", "no-ending"])
def test_torch_archives_are_told_by_their_bytes(tmp_path: Path, legacy: bool, name: str) -> None:
    content = open_content(put(tmp_path / name, saved(TREE, legacy)))
    assert content.container == "torch"
    assert content.path == tmp_path / name
    assert content.config == {}
    assert same(content.tree, TREE)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_network_pickle_is_told_from_a_legacy_archive(tmp_path: Path, protocol: int) -> None:
    data = nvidia_pickle(random_tensors(), protocol=protocol)
    assert data[0] == saved(TREE, legacy=True)[0] == 0x80
    content = open_content(put(tmp_path / "a.pt", data))
    assert content.container == "nvidia-pickle"
    assert all(isinstance(content.tree[name], Stub) for name in ("G", "D", "G_ema"))


@pytest.mark.parametrize("legacy", [False, True])
def test_arguments_of_a_script_become_a_stub(tmp_path: Path, legacy: bool) -> None:
    content = open_content(put(tmp_path / "a.pt", saved(rosinality_tree(random_tensors()), legacy)))
    args = content.tree["args"]
    assert isinstance(args, Stub)
    assert (args.class_name, args.module) == ("Namespace", "argparse")
    assert args.state == {"size": 32, "channel_multiplier": 2, "path": "faces.lmdb"}


def test_numbers_of_numpy_in_an_archive_become_plain(tmp_path: Path) -> None:
    import numpy as np

    content = open_content(put(tmp_path / "a.pt", saved({"loss_best": np.float64(-2.5), "it": np.int64(7)})))
    assert content.tree == {"loss_best": -2.5, "it": 7}
    assert type(content.tree["it"]) is int


def test_storages_shared_by_tensors_are_read_once(tmp_path: Path) -> None:
    base = torch.arange(4.0)
    content = open_content(put(tmp_path / "a.pt", saved({"a": base, "b": base[1:], "c": base.view(2, 2)})))
    assert content.tree["a"].data_ptr() == content.tree["c"].data_ptr()


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int8,
        torch.uint8,
        torch.bool,
        torch.int16,
        torch.int32,
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_storages_of_all_plain_types_are_read(tmp_path: Path, dtype: torch.dtype, legacy: bool) -> None:
    tensor = torch.tensor([0, 1, 1]).to(dtype)
    assert same(open_content(put(tmp_path / "a", saved({"a": tensor}, legacy))).tree, {"a": tensor})


def test_safetensors_give_their_metadata(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "x.bin", metadata={"format": "pt", "spec": '{"family": "x"}'})
    content = open_content(tmp_path / "x.bin")
    assert content.container == "safetensors"
    assert content.config == {"spec": {"family": "x"}}
    assert torch.equal(content.tree["a"], torch.ones(2))


def test_settings_beside_a_file_are_found(tmp_path: Path) -> None:
    put(tmp_path / "pytorch_model.bin", saved(TREE))
    put(tmp_path / "config.json", b'{"z_dim": 4}')
    assert open_content(tmp_path / "pytorch_model.bin").config == {"z_dim": 4}
    put(tmp_path / "spec.json", b'{"family": "x"}')
    assert open_content(tmp_path / "pytorch_model.bin").config == {"family": "x"}


def test_a_folder_of_ours(tmp_path: Path) -> None:
    save_gan(build(TINY, seed=0), tmp_path)
    content = open_content(tmp_path)
    assert content.container == "folder"
    assert list(content.tree) == ["gan.safetensors"]
    assert content.config["family"] == "stylegan2"


def test_a_folder_of_biggan_leaves_its_optimisers_shut(tmp_path: Path) -> None:
    for name in ("G.pth", "G_ema.pth", "D.pth", "G_ema_best1.pth"):
        put(tmp_path / name, saved({"shared.weight": torch.ones(1)}))
    for name in ("G_optim.pth", "D_optim.pth", "state_dict.pth", "samples.jpg"):
        put(tmp_path / name, b"not to be opened")
    content = open_content(tmp_path)
    assert sorted(content.tree) == ["D.pth", "G.pth", "G_ema.pth", "G_ema_best1.pth"]
    assert content.config == {}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_folder_of_hugging_face(tmp_path: Path, name: str) -> None:
    if name.endswith("bin"):
        put(tmp_path / name, saved(TREE["net"]))
    else:
        save_file(TREE["net"], tmp_path / name)
    put(tmp_path / "config.json", json.dumps({"output_dim": 128}).encode())
    content = open_content(tmp_path)
    assert content.container == "folder"
    assert same(dict(sorted(content.tree[name].items())), dict(sorted(TREE["net"].items())))
    assert content.config == {"output_dim": 128}


def test_a_folder_of_something_else_is_refused_with_its_names(tmp_path: Path) -> None:
    put(tmp_path / "readme.txt", b"")
    message = refusal(tmp_path)
    assert "without a checkpoint" in message
    assert "readme.txt" in message


def test_one_bad_file_refuses_the_folder(tmp_path: Path) -> None:
    put(tmp_path / "G_ema.pth", saved(TREE["net"]))
    put(tmp_path / "D.pth", b"\x80\x02cos\nsystem\n.")
    assert "os.system" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"{", "not JSON"),
        (b"[1]", "not a JSON object but a list"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b" " * (1 << 20) + b"{}", "larger than 1 MiB"),
    ],
    ids=["cut", "list", "deep", "binary", "large"],
)
def test_odd_settings_are_refused_by_name(tmp_path: Path, text: bytes, says: str) -> None:
    put(tmp_path / "a.pt", saved(TREE))
    put(tmp_path / "config.json", text)
    message = refusal(tmp_path / "a.pt")
    assert says in message
    assert "config.json" in message


def test_a_missing_file_is_a_missing_input(tmp_path: Path) -> None:
    with pytest.raises(MissingInput) as error:
        open_content(tmp_path / "nothing.pt")
    assert error.value.exit_code == 4


def test_size_is_checked_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "large.pkl"
    with file.open("wb") as out:
        out.truncate(module.MAX_FILE_BYTES + 1)
    assert "larger than 8 GiB" in refusal(file)


def test_a_changed_number_in_an_archive_is_noticed(tmp_path: Path) -> None:
    broken = bytearray(saved(TREE))
    broken[broken.find(TREE["net"]["w"].numpy().tobytes())] ^= 0xFF
    message = refusal(put(tmp_path / "a.pt", bytes(broken)))
    assert "/data/0" in message and "checksum" in message


def test_what_torch_alone_refuses_is_refused(tmp_path: Path) -> None:
    # The machine takes lists in protocol 4's frames, torch's restricted loader does not.
    data = torch_zip(b"\x95" + (2).to_bytes(8, "little") + b"].")
    assert "torch cannot read it: UnpicklingError" in refusal(put(tmp_path / "a.pt", data))


def test_every_truncation_of_a_file_is_refused(tmp_path: Path) -> None:
    for legacy in (False, True):
        data = saved({"a": torch.arange(3.0)}, legacy)
        for length in range(1, len(data), 23):
            refusal(put(tmp_path / "cut", data[:length]))


def test_every_truncation_of_a_network_is_refused(tmp_path: Path) -> None:
    data = nvidia_pickle(
        {n: t for n, t in random_tensors().items() if "b4" in n or "mapping" in n}, networks=("G_ema",)
    )
    for length in range(1, len(data), len(data) // 25):
        refusal(put(tmp_path / "cut", data[:length]))


def test_a_state_dict_keeps_its_tensors_apart_from_the_file(tmp_path: Path) -> None:
    tensors = part(random_tensors(), "generator_ema")
    file = put(tmp_path / "a.pt", saved(tensors))
    content = open_content(file)
    file.write_bytes(bytes(file.stat().st_size))
    assert same(content.tree, tensors)
