from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from graftgan.checkpoints.imported import Content
from graftgan.checkpoints.readers import translation
from graftgan.checkpoints.writers_translation import write_translation
from graftgan.errors import CheckpointError
from graftgan.gans.translation import TranslatorSpec, build_translator
from tests.gans.translation.sizes import ALL, lively

State = dict[str, Any]
PATH = Path("latest_net_G.pth")
DROPPING = TranslatorSpec(kind="resnet_6", ngf=2, ndf=64, norm="batch", dropout=True)


def content(state: object) -> Content:
    return Content(PATH, "torch", state)


def seen(spec: TranslatorSpec) -> TranslatorSpec:
    """Return the spec as a reader can see it: the other role's width is not in the file."""
    width = {"ngf": 64} if spec.kind == "patchgan" else {"ndf": 64}
    return TranslatorSpec(**{**{k: v for k, v in spec.to_dict().items() if k != "family"}, **width})


@pytest.mark.parametrize("spec", [*ALL, DROPPING], ids=lambda s: f"{s.kind}-{s.norm}-{s.dropout}")
def test_reads_every_kind_exactly(spec: TranslatorSpec) -> None:
    network = lively(spec)
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    assert translation.matches(content(state))
    imported = translation.read(content(state))
    assert imported.spec == seen(spec)
    assert (imported.skipped, imported.made, imported.absent) == ({}, {}, ())
    again = build_translator(imported.spec).eval()
    again.load_state_dict({n.removeprefix("translator."): t for n, t in imported.tensors.items()})
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


@pytest.mark.parametrize(("channels", "spec"), [(1, ALL[0]), (6, ALL[5]), (6, ALL[9])])
def test_channels_are_read_off(channels: int, spec: TranslatorSpec) -> None:
    values = {k: v for k, v in spec.to_dict().items() if k != "family"}
    out = 1 if spec.kind == "patchgan" else 4
    wanted = TranslatorSpec(**{**values, "in_channels": channels, "out_channels": out})
    imported = translation.read(content(lively(wanted).state_dict()))
    assert (imported.spec.in_channels, imported.spec.out_channels) == (channels, out)


@pytest.mark.parametrize("spec", [s for s in ALL if s.norm == "instance"], ids=lambda s: s.kind)
def test_statistics_of_instance_norms_are_left_out_with_a_reason(spec: TranslatorSpec) -> None:
    network = lively(spec)
    norms = [name for name, module in network.named_modules() if isinstance(module, torch.nn.InstanceNorm2d)]
    parts = ("running_mean", "running_var", "num_batches_tracked")
    old = {f"{name}.{part}": torch.zeros(2) for name in norms for part in parts}
    imported = translation.read(content({**network.state_dict(), **old}))
    assert imported.spec.norm == "instance"
    assert set(imported.skipped) == set(old)
    assert all("instance norm" in why for why in imported.skipped.values())
    assert set(imported.tensors) == {f"translator.{name}" for name in network.state_dict()}


def test_counters_that_old_files_lack_are_made() -> None:
    spec = TranslatorSpec(kind="patchgan", norm="batch", ndf=2, out_channels=1)
    network = lively(spec)
    state = {n: t for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    imported = translation.read(content(state))
    assert set(imported.made) == {f"translator.model.{i}.num_batches_tracked" for i in (3, 6, 9)}
    again = build_translator(imported.spec).eval()
    again.load_state_dict({n.removeprefix("translator."): t for n, t in imported.tensors.items()})
    img = torch.randn(1, 3, 32, 32)
    assert torch.equal(again(img), network(img))


def without(name: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if k != name}


@pytest.mark.parametrize(
    ("spec", "change", "message"),
    [
        (ALL[0], without("model.10.conv_block.1.bias"), "missing.*model.10.conv_block.1.bias"),
        (ALL[0], without("model.23.weight"), "lacks 'model.23.weight'"),
        (ALL[0], lambda s: {**s, "model.99.weight": torch.zeros(1)}, "unexpected.*model.99.weight"),
        (ALL[0], lambda s: {**s, "model.10.running_mean.x": torch.zeros(1)}, "unexpected"),
        (ALL[0], lambda s: {**s, "model.4.weight": torch.zeros(3, 2, 3, 3)}, "reshaped.*model.4.weight"),
        (
            ALL[0],
            lambda s: {**s, "model.1.weight": torch.zeros(4)},
            "has shapes of no pix2pix or CycleGAN network",
        ),
        (
            ALL[0],
            lambda s: {**s, "model.x.conv_block.1.weight": torch.zeros(4)},
            "has shapes of no pix2pix or CycleGAN network",
        ),
        (
            ALL[0],
            lambda s: {
                **s,
                "model.16.conv_block.1.weight": s["model.1.weight"],
                "model.24.weight": s["model.1.weight"],
            },
            "kind is 'resnet_7'",
        ),
        (
            ALL[0],
            lambda s: {**s, "model.1.bias": torch.zeros(2).double()},
            "model.1.bias is of type torch.float64",
        ),
        (ALL[0], lambda s: {**s, "module.model.1.bias": torch.zeros(2)}, "unexpected.*module.model.1.bias"),
        (ALL[4], lambda s: {**s, "model.model.0.weight": torch.zeros(0, 3, 4, 4)}, "ngf is 0"),
        (ALL[9], without("model.6.running_var"), "missing.*model.6.running_var"),
    ],
)
def test_what_would_load_in_part_is_refused(
    spec: TranslatorSpec, change: Callable[[State], State], message: str
) -> None:
    state = change(dict(lively(spec).state_dict()))
    assert translation.matches(content(state))
    with pytest.raises(CheckpointError, match=message) as caught:
        translation.read(content(state))
    assert str(PATH) in caught.value.message
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("halvings", [5, 9])
def test_a_unet_of_another_depth_is_refused(halvings: int) -> None:
    state: State = {
        "model.model.0.weight": torch.zeros(2, 3, 4, 4),
        "model.model.3.weight": torch.zeros(4, 3, 4, 4),
    }
    for level in range(halvings - 1):
        state["model.model.1." + "model.3." * level + "model.1.weight"] = torch.zeros(2, 2, 4, 4)
    assert translation.matches(content(state))
    with pytest.raises(CheckpointError, match=f"kind is 'unet_{2**halvings}'"):
        translation.read(content(state))


@pytest.mark.parametrize(
    "tree",
    [
        None, [], {}, {"g_ema": {}}, {**lively(ALL[0]).state_dict(), "epoch": 3},
        {1: torch.zeros(1)}, {"model.1.weight": torch.zeros(1)},
        {"model.0.weight": torch.zeros(4, 3, 3, 3)}, {"model.model.0.weight": torch.zeros(1)},
    ],
)  # fmt: skip
def test_other_content_is_left_to_other_readers(tree: object) -> None:
    assert not translation.matches(content(tree))


def test_notes_say_what_the_file_cannot_tell() -> None:
    unet, resnet = (translation.read(content(lively(spec).state_dict())).notes for spec in (ALL[4], ALL[0]))
    assert any("dropout leaves no trace" in note for note in unet)
    assert not any("dropout" in note for note in resnet)


@pytest.mark.parametrize("spec", [*ALL, DROPPING], ids=lambda s: f"{s.kind}-{s.norm}-{s.dropout}")
def test_import_export_import_is_bit_identical(spec: TranslatorSpec, tmp_path: Path) -> None:
    network = lively(spec)
    imported = translation.read(content(network.state_dict()))
    path = tmp_path / "net.pth"
    write_translation(imported.tensors, imported.spec, path)
    written: dict[str, Tensor] = torch.load(path, weights_only=True)
    assert list(written) == list(network.state_dict())
    network.load_state_dict(written)
    again = translation.read(Content(path, "torch", written))
    assert again.spec == imported.spec
    assert list(again.tensors) == list(imported.tensors)
    assert all(torch.equal(again.tensors[n], t) for n, t in imported.tensors.items())
    assert all(again.tensors[n].dtype is t.dtype for n, t in imported.tensors.items())


def test_tensors_of_another_network_are_not_written(tmp_path: Path) -> None:
    imported = translation.read(content(lively(ALL[0]).state_dict()))
    with pytest.raises(CheckpointError, match="not those of a resnet_9 with batch norm"):
        write_translation(imported.tensors, TranslatorSpec(ngf=2, norm="batch"), tmp_path / "net.pth")
    assert not list(tmp_path.iterdir())
