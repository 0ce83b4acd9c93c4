from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from graftgan.checkpoints.convert import read_checkpoint
from graftgan.checkpoints.imported import Content
from graftgan.checkpoints.readers import READERS, dcgan
from graftgan.checkpoints.store import assemble
from graftgan.errors import CheckpointError
from graftgan.gans.base import Gan
from graftgan.gans.dcgan import DCGANSpec
from tests.gans.dcgan.sizes import TINY, lively

State = dict[str, Tensor]
NO_AVERAGE = "the file holds no averaged generator: the raw one stands in for it"
# Without a discriminator its width is taken to be the generator's.
SEEN = DCGANSpec(resolution=32, z_dim=6, g_ch=3, d_ch=3)


def plain(gan: Gan) -> State:
    return OrderedDict((name, tensor.clone()) for name, tensor in gan.generator.state_dict().items())


def parallel(state: State) -> State:
    return {f"module.{name}": tensor for name, tensor in state.items()}


def layer_by_layer(state: State) -> State:
    """The names of a network that keeps each layer in an attribute of its own."""
    places = {0: "convTr1", 1: "batchNorm1", 3: "convTr2", 4: "batchNorm2", 6: "convTr3", 7: "batchNorm3"}
    places |= {9: "convTr4"}
    renamed = {}
    for name, tensor in state.items():
        _, index, part = name.split(".")
        renamed[f"{places[int(index)]}.{part}"] = tensor
    return renamed


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "plain": dict,
    "parallel": parallel,
    "nested": lambda state: {"netG_state_dict": state},
    "nested parallel": lambda state: {"netG_state_dict": parallel(state)},
    "layer by layer": layer_by_layer,
    "layer by layer, parallel": lambda state: parallel(layer_by_layer(state)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reads_every_layout_from_a_file(layout: str, tmp_path: Path) -> None:
    gan = lively()
    path = tmp_path / "weights.tar"
    torch.save(LAYOUTS[layout](plain(gan)), path)
    imported = read_checkpoint(path)
    assert (imported.format, imported.spec, imported.absent) == ("dcgan", SEEN, ("discriminator",))
    assert imported.skipped == {}
    assert imported.notes == (NO_AVERAGE,)
    assert imported.made == {
        f"generator_ema.{n}": f"copy of generator.{n}" for n in gan.generator.state_dict()
    }
    again = assemble(imported.spec, imported.tensors, path)
    assert again.fresh == ("discriminator",)
    for network in (again.generator, again.generator_ema):
        for name, tensor in gan.generator.state_dict().items():
            assert torch.equal(network.state_dict()[name], tensor), name
    z = torch.randn(2, 6)
    assert torch.equal(again.generator_ema(z), gan.generator_ema(z))


def test_a_whole_checkpoint_gives_both_networks_and_accounts_for_the_rest(tmp_path: Path) -> None:
    gan = lively()
    tree = {
        "netD_state_dict": gan.discriminator.state_dict(),
        "netG_state_dict": plain(gan),
        "optimizerG_state_dict": {"state": {}, "param_groups": [{"lr": 2e-4}]},
        "img_list": [torch.zeros(3, 8, 8)],
        "epoch": 4,
    }
    path = tmp_path / "checkpoint.tar"
    torch.save(tree, path)
    imported = read_checkpoint(path)
    assert (imported.spec, imported.absent) == (TINY, ())
    assert set(imported.skipped) == {"optimizerG_state_dict", "img_list", "epoch"}
    assert "optimiser" in imported.skipped["optimizerG_state_dict"]
    again = assemble(imported.spec, imported.tensors, path)
    for name, tensor in gan.discriminator.state_dict().items():
        assert torch.equal(again.discriminator.state_dict()[name], tensor), name


def content(tree: object) -> Content:
    return Content(Path("g.pt"), "torch", tree)


@pytest.mark.parametrize(
    "spec",
    [
        DCGANSpec(resolution=64, channels=1, z_dim=9, g_ch=1, d_ch=1),
        DCGANSpec(resolution=128, channels=4, z_dim=1, g_ch=2, d_ch=2),
    ],
)
def test_sizes_are_read_off(spec: DCGANSpec) -> None:
    assert dcgan.read(content(plain(lively(spec)))).spec == spec


def test_half_precision_is_widened_and_lacking_counters_are_made() -> None:
    state = {n: t.half() for n, t in plain(lively()).items() if not n.endswith("num_batches_tracked")}
    imported = dcgan.read(content(state))
    assert all(imported.tensors[f"generator.{name}"].equal(tensor.float()) for name, tensor in state.items())
    counter = "generator.main.1.num_batches_tracked"
    assert imported.made[counter] == "no batches counted"
    assert imported.tensors[counter].dtype is torch.int64 and not imported.tensors[counter]


def change(name: str, value: Tensor | None) -> Callable[[State], Any]:
    def apply(state: State) -> Any:
        if value is None:
            del state[name]
        else:
            state[name] = value
        return state

    return apply


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("main.4.bias", None), "in part only.*missing.*generator.main.4.bias"),
        (change("main.13.weight", torch.zeros(1)), "unexpected.*generator.main.13.weight"),
        (change("main.0.weight", torch.zeros(6, 12, 5, 5)), "reshaped.*main.0.weight"),
        (change("main.0.bias", torch.zeros(12)), "unexpected.*generator.main.0.bias"),
        (change("main.6.weight", None), "resolution is 8"),
        (change("main.9.weight", torch.zeros(3, 2, 4, 4)), "channels is 2"),
        (change("main.9.weight", torch.zeros(0, 3, 4, 4)), "g_ch is 0"),
        (change("main.9.weight", torch.zeros(3)), "names or shapes of no DCGAN"),
        (change("main.0.weight", torch.zeros(())), "names or shapes of no DCGAN"),
        (change("main.1.bias", torch.zeros(12, dtype=torch.int32)), "main.1.bias is of type torch.int32"),
        (change("convTr2.weight", torch.zeros(1)), "two tensors for main.3.weight"),
        (lambda s: {"netG_state_dict": s, "netD_state_dict": [1]}, "`netD_state_dict` is not a state dict"),
        (
            lambda s: {"netG_state_dict": s, "netD_state_dict": {"x": torch.zeros(1)}},
            "no DCGAN: 'main.0.weight'",
        ),
    ],
)
def test_what_would_load_in_part_is_refused(edit: Callable[[State], Any], message: str) -> None:
    tree = edit(plain(lively()))
    assert dcgan.matches(content(tree))
    with pytest.raises(CheckpointError, match=message) as caught:
        dcgan.read(content(tree))
    assert "g.pt" in caught.value.message


def test_a_sequence_longer_than_any_network_is_refused() -> None:
    state = plain(lively()) | {f"main.{3 * n}.weight": torch.zeros(3, 3, 4, 4) for n in range(4, 200)}
    with pytest.raises(CheckpointError, match="resolution is 4194304"):
        dcgan.read(content(state))


@pytest.mark.parametrize(
    "tree",
    [
        [1],
        {},
        {"netG_state_dict": 3},
        {"main.0.weight": torch.zeros(6, 12, 4, 4)},
        lively().discriminator.state_dict(),
        {"fc1.weight": torch.zeros(2, 2), "fc1.bias": torch.zeros(2)},
    ],
)
def test_other_files_are_left_to_other_readers(tree: object) -> None:
    assert not dcgan.matches(content(tree))
    with pytest.raises(CheckpointError, match="holds no DCGAN generator"):
        dcgan.read(content(tree))


def test_no_reader_before_takes_the_file() -> None:
    import importlib

    taken = [n for n, m in READERS.items() if importlib.import_module(m).matches(content(plain(lively())))]
    assert taken == ["dcgan"]
