from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from graftgan.checkpoints.imported import Content, Imported
from graftgan.checkpoints.readers.biggan import matches, read
from graftgan.errors import CheckpointError
from graftgan.gans.base import Gan, build
from graftgan.gans.biggan import BigGANSpec
from tests.gans.biggan.filling import fill
from tests.gans.biggan.reference import as_arrays, generate, judge
from tests.gans.biggan.sizes import PLAIN, TINY, VARIANTS

State = dict[str, Any]
GENERATOR_COUNT = 110
"""Class table, stem 4, three blocks of 28, attention 13, output 8."""


def _gan(spec: BigGANSpec = TINY) -> Gan:
    gan = build(spec, seed=0)
    for seed, network in enumerate((gan.generator, gan.generator_ema, gan.discriminator)):
        fill(network, seed)
    return gan


def _file(tree: State, config: dict[str, Any] | None = None) -> Content:
    return Content(Path("public.pth"), "torch", tree, config or {})


def _folder(gan: Gan, suffix: str = "") -> dict[str, State]:
    networks = {"G": gan.generator, "G_ema": gan.generator_ema, "D": gan.discriminator}
    return {f"{name}{suffix}.pth": dict(network.state_dict()) for name, network in networks.items()}


def _read_folder(tree: dict[str, Any]) -> Imported:
    return read(Content(Path("run"), "folder", tree))


def _loaded(imported: Imported) -> Gan:
    """Build the networks of the spec and load every tensor strictly."""
    gan = build(imported.spec, seed=9)
    seen = 0
    for name in ("generator", "generator_ema", "discriminator"):
        part = {
            k.removeprefix(f"{name}."): t for k, t in imported.tensors.items() if k.startswith(f"{name}.")
        }
        if part:
            getattr(gan, name).load_state_dict(part, strict=True)
            seen += len(part)
    assert seen == len(imported.tensors)
    return gan


@pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS)
def test_folder_gives_spec_and_networks(spec: BigGANSpec) -> None:
    gan = _gan(spec)
    imported = _read_folder(_folder(gan))
    assert imported.format == "biggan"
    assert imported.spec == spec
    assert (imported.absent, dict(imported.made), dict(imported.skipped)) == ((), {}, {})
    again = _loaded(imported)
    for name in ("generator", "generator_ema", "discriminator"):
        before, after = getattr(gan, name).state_dict(), getattr(again, name).state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_read_networks_compute_the_published_formulas() -> None:
    tree = _folder(_gan())
    gan = _loaded(_read_folder(tree))
    z, label = torch.randn(1, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([2])
    state = as_arrays(tree["G_ema.pth"])
    with torch.no_grad():
        img = gan.generator_ema(z, label)
        logit = float(gan.discriminator.eval()(img, label))
    expected = generate(state, z[0].double().numpy(), state["shared.weight"][2], True, 1e-5)
    np.testing.assert_allclose(img[0].numpy(), expected, rtol=1e-5, atol=1e-5)
    judged = judge(as_arrays(tree["D.pth"]), img[0].double().numpy(), 2, 2)
    assert logit == pytest.approx(judged, rel=1e-5)


def test_generator_alone_serves_as_both() -> None:
    state = dict(_gan().generator.state_dict())
    imported = read(_file(state))
    assert imported.absent == ("discriminator",)
    assert len(imported.made) == len(state) == GENERATOR_COUNT
    assert imported.made["generator_ema.linear.weight"] == "copy of generator.linear.weight"
    assert any("one generator" in note for note in imported.notes)
    gan = _loaded(imported)
    assert torch.equal(gan.generator.linear.weight, state["linear.weight"])  # type: ignore[arg-type]
    pointers = [imported.tensors[f"{n}.linear.weight"].data_ptr() for n in ("generator", "generator_ema")]
    assert pointers[0] != pointers[1]


def test_folder_without_average_or_discriminator() -> None:
    tree = _folder(_gan())
    imported = _read_folder({"G.pth": tree["G.pth"]})
    assert imported.absent == ("discriminator",)
    assert imported.made["generator_ema.shared.weight"] == "copy of generator.shared.weight"
    imported = _read_folder({"G_ema.pth": tree["G_ema.pth"], "D.pth": tree["D.pth"]})
    assert imported.absent == ()
    assert imported.made["generator.shared.weight"] == "copy of generator_ema.shared.weight"
    _loaded(imported)


def test_discriminator_alone() -> None:
    imported = read(_file(dict(_gan().discriminator.state_dict())))
    assert imported.absent == ("generator",)
    assert {name.split(".")[0] for name in imported.tensors} == {"discriminator"}
    assert (imported.spec.d_ch, imported.spec.classes, imported.spec.d_attn) == (2, 3, (16,))
    assert any("no generator" in note for note in imported.notes)
    _loaded(imported)


def test_generator_alone_of_full_width_has_the_published_spec() -> None:
    wanted = BigGANSpec(resolution=256, z_dim=140, classes=1000, g_attn=(128,))
    with torch.device("meta"):
        state = dict(build(wanted).generator.state_dict())
    assert read(_file(state)).spec == wanted
    ported = {name: tensor for name, tensor in state.items() if not name.endswith("sv0")}
    assert read(_file(ported)).spec == dataclasses.replace(wanted, bn_eps=1e-4, sn_eps=1e-4)


def test_prefix_of_parallel_training_and_half_precision() -> None:
    state = _gan().generator.state_dict()
    imported = read(_file({f"module.{name}": tensor.half() for name, tensor in state.items()}))
    assert all(tensor.dtype == torch.float32 for tensor in imported.tensors.values())
    torch.testing.assert_close(
        imported.tensors["generator.shared.weight"], state["shared.weight"], atol=1e-3, rtol=1e-3
    )
    _loaded(imported)


def test_files_converted_from_tensorflow_lack_logs() -> None:
    gan = _gan()
    state = {name: t for name, t in gan.generator_ema.state_dict().items() if not name.endswith("sv0")}
    state["blocks.1.1.gamma"] = state["blocks.1.1.gamma"].reshape(1)
    state["linear.u0"] = state["linear.u0"].reshape(-1)
    imported = read(_file(state))
    assert (imported.spec.bn_eps, imported.spec.sn_eps) == (1e-4, 1e-4)
    assert "log" in imported.made["generator.linear.sv0"]
    assert any("TensorFlow" in note for note in imported.notes)
    again = _loaded(imported)
    z, label = torch.randn(1, 8), torch.tensor([0])
    arrays = as_arrays(dict(gan.generator_ema.state_dict()))
    expected = generate(arrays, z[0].double().numpy(), arrays["shared.weight"][0], True, 1e-4)
    actual = again.generator_ema(z, label)[0].detach().numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_config_beside_the_file_decides_the_constants() -> None:
    state = dict(_gan().generator.state_dict())
    imported = read(_file(state, {"BN_eps": 2e-5, "SN_eps": 1e-8, "G_ch": 2}))
    assert (imported.spec.bn_eps, imported.spec.sn_eps) == (2e-5, 1e-8)
    assert not any("does not hold" in note for note in imported.notes)
    with pytest.raises(CheckpointError, match="bn_eps"):
        read(_file(state, {"BN_eps": "tiny"}))


def test_further_singular_values_are_skipped() -> None:
    state = dict(_gan().generator.state_dict())
    state["linear.u1"], state["linear.sv1"] = torch.ones(1, 128), torch.ones(1)
    imported = read(_file(state))
    assert set(imported.skipped) == {"linear.u1", "linear.sv1"}
    assert imported.spec == dataclasses.replace(TINY, d_attn=())


def test_other_files_of_a_run_are_accounted_for() -> None:
    tree: dict[str, Any] = _folder(_gan()) | _folder(_gan(PLAIN), "_copy0")
    tree |= {
        "G_optim.pth": {"state": {}, "param_groups": []},
        "log.txt": "text",
        "state_dict.pth": {"itr": 3},
    }
    imported = _read_folder(tree)
    assert imported.spec == TINY
    copies = {f"{name}_copy0.pth": "another copy of the networks" for name in ("G", "G_ema", "D")}
    others = {"G_optim.pth": "state of an optimiser", "log.txt": "no network", "state_dict.pth": "no network"}
    assert dict(imported.skipped) == copies | others


def test_a_single_set_with_a_suffix_is_taken_and_several_are_refused() -> None:
    gan = _gan()
    assert _read_folder(_folder(gan, "_best2")).spec == TINY
    with pytest.raises(CheckpointError, match="best1, copy0"):
        _read_folder(_folder(gan, "_best1") | _folder(gan, "_copy0"))
    with pytest.raises(CheckpointError, match=r"both a\.pth and b\.pth hold a generator"):
        _read_folder({name: dict(gan.generator.state_dict()) for name in ("a.pth", "b.pth")})


def _without(name: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if key != name}


def _with(name: str, value: Any) -> Callable[[State], State]:
    return lambda state: {**state, name: value}


def _renamed(old: str, new: str) -> Callable[[State], State]:
    return lambda state: {key.replace(old, new): value for key, value in state.items()}


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_without("blocks.1.0.conv2.bias"), r"1 missing \(blocks.1.0.conv2.bias\)"),
        (_without("blocks.2.0.bn1.stored_var"), r"1 missing \(blocks.2.0.bn1.stored_var\)"),
        (_without("output_layer.2.weight"), "no layout of BigGAN"),
        (_with("extra.weight", torch.zeros(2)), r"1 unexpected \(extra.weight\)"),
        (_with("blocks.1.0.conv2.weight", torch.zeros(8, 8, 1, 1)), "1 reshaped"),
        (_with("shared.weight", torch.zeros(3)), "no layout of BigGAN"),
        (_with("shared.weight", torch.zeros(3, 0)), "reshaped|cannot be built"),
        (_with("linear.weight", torch.zeros(1, 1).expand(2**40, 2)), "larger than its data"),
        (_with("linear.weight", "text"), "`linear.weight` is not a tensor"),
        (
            _with("linear.weight", torch.zeros(2, dtype=torch.int64)),
            "`linear.weight` is not a tensor of floats",
        ),
        (_with("blocks.999999999999.0.conv1.weight", torch.zeros(1)), "no layout of BigGAN"),
        (_with("blocks.x.0.conv1.weight", torch.zeros(1)), "no layout of BigGAN"),
        (_with("blocks.0.0.conv3.weight", torch.zeros(1)), "BigGAN-deep of this project"),
        (_without("linear.u0"), "without spectral normalisation"),
        (_renamed(".stored_mean", ".bn.running_mean"), "cross-replica"),
        (_with("blocks.0.0.bn1.bn.accumulation_counter", torch.tensor([16.0])), "sums of statistics"),
    ],
)
def test_what_would_load_in_part_is_refused(damage: Callable[[State], State], why: str) -> None:
    content = _file(damage(dict(_gan().generator.state_dict())))
    assert matches(content)
    with pytest.raises(CheckpointError, match=why) as caught:
        read(content)
    assert "public.pth" in caught.value.message


def test_networks_that_do_not_belong_together_are_refused() -> None:
    five = dataclasses.replace(TINY, classes=5)
    tree = {
        "G.pth": dict(_gan().generator.state_dict()),
        "D.pth": dict(_gan(five).discriminator.state_dict()),
    }
    with pytest.raises(CheckpointError, match="classes is 3 and 5"):
        _read_folder(tree)


def test_batch_norms_of_the_own_kind_are_renamed() -> None:
    state: dict[str, Tensor] = {}
    for name, tensor in _gan().generator.state_dict().items():
        state[name.replace(".stored_", ".bn.stored_")] = tensor
        if name.endswith("stored_mean"):
            state[name.replace("stored_mean", "bn.accumulation_counter")] = torch.zeros(1)
    imported = read(_file(state))
    assert len(imported.skipped) == 7
    assert torch.equal(
        imported.tensors["generator.output_layer.0.stored_var"], state["output_layer.0.bn.stored_var"]
    )
    _loaded(imported)


@pytest.mark.parametrize(
    "tree",
    [
        None,
        [],
        {},
        {1: torch.zeros(2)},
        {"g_ema": {}, "d": {}},
        {"shared.weight": torch.zeros(2, 2), "linear.weight": torch.zeros(2, 2)},
        {"embeddings.weight": torch.zeros(2, 2), "generator.gen_z.weight_orig": torch.zeros(2, 2)},
    ],
)
def test_other_content_does_not_match(tree: Any) -> None:
    for container in ("torch", "folder", "safetensors"):
        assert not matches(Content(Path("x"), container, tree))


def test_networks_without_spectral_vectors_of_a_discriminator_do_not_match() -> None:
    state = dict(_gan().discriminator.state_dict())
    assert matches(_file(state))
    assert not matches(_file(_without("linear.u0")(state)))
