from __future__ import annotations

import copy
import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from training.nets import everything, pictures, recipe

from graftgan.checkpoints.store import gan_tensors
from graftgan.errors import GraftganError
from graftgan.gans.base import Gan
from graftgan.training.stepper import Stepper
from graftgan.training.trainer import Trainer
from graftgan.transfer import METHODS, method
from graftgan.transfer.direct import Task
from graftgan.transfer.invariants import Fixed, digest, displacement
from transfer.families import OTHERS, SIZES, moved, small, trainer

KEYS: dict[str, dict[str, Any]] = {
    "minegan": {"minegan": {"joint_from": None}},
    "freeze_g": {"freeze_g_blocks": 1},
    "lora": {"adapter_rank": 1},
    "cdc": {"batch": 4},
    "class_embedding": {
        "controls": [],
        "class_embedding": {
            "use": "repair", "classes": [1], "objective": "discriminator", "starts": 1,
            "diversity": "pixelwise",
        },
    },
}  # fmt: skip
FAMILIES = [*SIZES, *OTHERS]
SUITED = [
    (name, family)
    for name, found in METHODS.items()
    for family in FAMILIES
    if (found.families is None or family in found.families)
    and (name != "class_embedding" or family.startswith("biggan"))
]


def begun(name: str, family: str) -> tuple[Stepper, Fixed]:
    """A run of a method before its first step, and what of it has to stay."""
    keys = {"method": name, **KEYS.get(name, {})}
    if method(name).direct is None:
        run = trainer(family, **keys)
        return run, Fixed.of(run.gan)
    gan, settings = small(family), recipe(**keys)
    method(name).apply(gan, settings)
    gan.generator.freeze_statistics()
    fixed = Fixed.of(gan)
    labels = np.full(6, 1, np.int32) if gan.spec.classes else None
    return method(name).direct(Task(gan, pictures(6), labels, settings, torch.device("cpu"))), fixed


def stepped(run: Stepper, steps: int = 2) -> Gan:
    run.seed_noise()
    for _ in range(steps):
        run.step()
    return run.gan


@pytest.mark.parametrize(("name", "family"), SUITED)
def test_what_a_method_fixes_stays_in_every_family(name: str, family: str) -> None:
    run, fixed = begun(name, family)
    before = copy.deepcopy(everything(run))
    gan = stepped(run)
    fixed.check(gan, gan_tensors(gan), f"finetune.method={name}")
    fixed.check_source(small(family), f"finetune.method={name}")
    assert fixed.facts()["frozen_parameters"] == {
        network: sum(p.numel() for p in getattr(gan, network).parameters() if not p.requires_grad)
        for network in ("generator", "discriminator")
    }
    # All that stayed is known: beside it only what has no influence or no gradient yet.
    after, known = everything(run), {n.replace("generator.", "g.", 1) for n in fixed.tensors}
    other = {n for n in after if not torch.equal(after[n], before[n])}
    assert other and not other & known


@pytest.mark.parametrize(
    ("name", "family"), [(name, family) for name, family in SUITED if METHODS[name].direct is None]
)
def test_every_tensor_that_a_method_trains_moves(name: str, family: str) -> None:
    """None is forgotten on the way from the loss to the optimiser; `train` tells what has no slope at 0."""
    run, _ = begun(name, family)
    assert isinstance(run, Trainer)
    found = moved(run, steps=4)
    for network, names in zip((run.gan.generator, run.gan.discriminator), found, strict=True):
        assert names == {n for n, parameter in network.named_parameters() if parameter.requires_grad}


def changed(gan: Gan, network: str, name: str) -> None:
    tensor = getattr(gan, network).state_dict()[name]
    with torch.no_grad():
        tensor[(0,) * tensor.ndim] += 1e-3


@pytest.mark.parametrize(
    ("name", "family", "network", "tensor"),
    [
        ("minegan", "stylegan2", "generator", "synthesis.b8.conv1.weight"),
        ("minegan", "biggan", "generator_ema", "linear.weight"),
        ("bsa", "resnet_gan", "generator", "conv_img.weight"),
        ("bsa", "resnet_gan", "generator", "fc.parametrizations.weight.original"),
        ("bsa", "biggan", "discriminator", "linear.weight"),
        ("freeze_d", "stylegan2", "discriminator", "b32.conv0.weight"),
        ("freeze_d", "biggan", "discriminator", "blocks.0.0.conv1.u0"),
        ("filter_transfer", "resnet_gan", "discriminator", "conv_img.weight"),
        ("adafm", "stylegan2", "discriminator", "b32.conv0.weight"),
        ("adafm", "stylegan2", "generator_ema", "synthesis.b32.conv1.parametrizations.weight.original"),
        ("scale_shift", "biggan", "generator", "output_layer.0.stored_mean"),
        ("gan_memory", "stylegan2", "generator", "synthesis.b8.conv1.parametrizations.weight.0.deviation"),
        ("lora", "stylegan3", "generator", "synthesis.input.freqs"),
        ("full", "stylegan2", "generator", "synthesis.b8.conv1.noise_const"),
    ],
)
def test_a_bit_that_moved_is_found_and_named(name: str, family: str, network: str, tensor: str) -> None:
    run, fixed = begun(name, family)
    best = gan_tensors(run.gan)
    changed(run.gan, network, tensor)
    where = f"{network}.{tensor} changed, which finetune.method={name} fixes: other bits after the last step"
    with pytest.raises(GraftganError) as error:
        fixed.check(run.gan, best, f"finetune.method={name}")
    assert error.value.message == where


def test_the_best_checkpoint_is_compared_too_and_what_is_missing_is_found() -> None:
    run, fixed = begun("freeze_d", "stylegan2")
    best = gan_tensors(run.gan)
    fixed.check(run.gan, best, "x")
    tampered = {**best, "discriminator.b32.conv0.bias": best["discriminator.b32.conv0.bias"] + 1}
    with pytest.raises(GraftganError, match=r"discriminator\.b32\.conv0\.bias changed.*best checkpoint"):
        fixed.check(run.gan, tampered, "x")
    del best["discriminator.b32.conv1.weight"]
    with pytest.raises(GraftganError, match=r"^discriminator\.b32\.conv1\.weight changed"):
        fixed.check(run.gan, best, "x")
    every = {name: tensor + 1 for name, tensor in best.items()}
    with pytest.raises(GraftganError, match=r" and \d+ more changed"):
        fixed.check(run.gan, every, "x")


def test_what_changed_before_the_first_step_is_told_by_the_sources_file() -> None:
    source = small("stylegan2")
    for name, network, tensor in (
        ("lora", "generator_ema", "synthesis.b8.conv1.weight"),
        ("freeze_d", "discriminator", "b32.skip.weight"),
    ):
        gan = small("stylegan2")
        changed(gan, network, tensor)
        method(name).apply(gan, recipe(method=name))
        fixed = Fixed.of(gan)
        fixed.check(gan, gan_tensors(gan), "x")
        with pytest.raises(GraftganError, match=rf"{tensor} changed, .* before the first step"):
            fixed.check_source(source, "x")
    # A fresh D is none that a source could have.
    source.fresh = ("discriminator",)
    fixed.check_source(source, "x")


def test_classes_that_came_before_the_first_step_are_no_change() -> None:
    source, gan = small("resnet_gan"), small("resnet_gan")
    method("gan_memory").apply(gan, recipe(method="gan_memory", gan_memory={"classes": 3}))
    Fixed.of(gan).check_source(source, "x")


def test_a_digest_is_of_type_shape_and_values_alone() -> None:
    tensor = torch.arange(48, dtype=torch.float32).view(2, 3, 2, 4)
    expected = hashlib.sha256(b"torch.float32 [2, 3, 2, 4] " + tensor.numpy().tobytes()).hexdigest()
    assert digest(tensor) == expected
    assert digest(tensor.contiguous(memory_format=torch.channels_last)) == expected
    assert digest(torch.nn.Parameter(tensor)) == expected
    others = [tensor.view(3, 2, 2, 4), tensor.double(), tensor.view(torch.int32), tensor + 0.5]
    assert len({digest(other) for other in others} | {expected}) == 5
    assert digest(torch.tensor(1.0)) != digest(torch.tensor([1.0]))
    assert digest(torch.tensor(0.0)) != digest(torch.tensor(-0.0))


def test_the_digest_of_all_is_that_of_names_and_digests() -> None:
    _, fixed = begun("freeze_d", "stylegan2")
    _, again = begun("freeze_d", "stylegan2")
    _, other = begun("full", "stylegan2")
    assert fixed.sha256 == again.sha256 != other.sha256
    lines = "".join(f"{name} {fixed.tensors[name].digest}\n" for name in sorted(fixed.tensors))
    assert fixed.facts()["frozen_sha256"] == hashlib.sha256(lines.encode()).hexdigest()
    nothing, none = begun("full", "resnet_gan")[1], {"generator": 0, "discriminator": 0}
    assert nothing.facts() == {"frozen_parameters": none, "frozen_sha256": None}


def test_displacement_is_the_norm_of_the_change_over_the_norm() -> None:
    net = small("stylegan2").generator
    tensors = {f"x.{name}": p.detach() * 1.25 for name, p in net.named_parameters()}
    assert displacement(net, "x.", tensors) == pytest.approx(0.25, rel=1e-6)
    (first, weight), *_ = net.named_parameters()
    one = {f"x.{name}": p.detach().clone() for name, p in net.named_parameters()}
    one[f"x.{first}"] += 1.0
    whole = sum(float(p.detach().double().square().sum()) for p in net.parameters())
    assert displacement(net, "x.", one) == pytest.approx((weight.numel() / whole) ** 0.5, rel=1e-6)
    # What is of another shape, or not there, is no part of it.
    one[f"x.{first}"] = torch.zeros(1)
    assert displacement(net, "x.", one) == 0.0
    assert displacement(net, "y.", one) is None
