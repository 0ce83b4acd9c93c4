from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from stages.test_finetune import Workshop, quick
from training.nets import copies, equal, everything, recipe

from graftgan.checkpoints.store import gan_tensors, load_gan, read_tensors, save_gan
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, sample
from graftgan.gans.laws import MinedNormal
from graftgan.gans.miner import Miner, attach, detach, is_mined, miner_of
from graftgan.sampling import open_generator
from graftgan.training.trainer import Trainer
from graftgan.transfer import minegan
from transfer.families import SIZES, small, trainer

FAMILIES = tuple(SIZES)


def run(family: str = "stylegan2", steps: int = 2, **section: Any) -> Trainer:
    """A trainer of the method after some steps, phases and all."""
    made = trainer(family, method="minegan", minegan=section, budget={"kimg": 0.008})
    made.add_phases(partial(minegan.resting, made.gan, made.settings))
    made.seed_noise()
    for _ in range(steps):
        made.step()
    return made


def own(state: dict[str, torch.Tensor], mined: bool = False) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if is_mined(name) is mined}


def parameters(gan: Gan, mined: bool) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in gan.generator.named_parameters() if is_mined(n) is mined}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_miner_leaves_every_image_as_it_was(family: str) -> None:
    gan = small(family)
    before = [sample(net, 3, 0) for net in (gan.generator, gan.generator_ema)]
    minegan.METHOD.apply(gan, recipe(method="minegan"))
    after = [sample(net, 3, 0) for net in (gan.generator, gan.generator_ema)]
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("family", ["stylegan2", "resnet_gan"])
def test_with_a_miner_that_rests_it_is_full_fine_tuning_bit_for_bit(family: str) -> None:
    plain = trainer(family, style_mixing=0.9 if family == "stylegan2" else 0.0)
    plain.seed_noise()
    neutral = trainer(
        family, method="minegan", minegan={"joint_from": 0}, style_mixing=plain.settings.style_mixing
    )
    asleep = {f"generator.{name}" for name, _ in neutral.gan.generator.named_parameters() if is_mined(name)}
    neutral.add_phases(lambda images_seen: asleep)
    states = []
    for made in (plain, neutral):
        made.seed_noise()
        for _ in range(3):
            made.step()
        states.append(own(everything(made)))
    assert equal(*states)


def test_g_stays_until_its_share_of_the_budget_and_moves_then() -> None:
    made = run(steps=0, joint_from=0.5)
    start = parameters(made.gan, False)
    for _ in range(2):
        made.step()
    assert made.images_seen == 4
    mined = parameters(made.gan, True)
    assert equal(start, parameters(made.gan, False))
    assert any(float(tensor.abs().max()) > 0 for name, tensor in mined.items() if "weight1" in name)
    made.step()
    assert not equal(start, parameters(made.gan, False))
    assert not equal(mined, parameters(made.gan, True))


def test_without_a_joint_phase_g_is_in_no_optimiser() -> None:
    made = run(joint_from=None)
    names = {n for n, p in made.gan.generator.named_parameters() if p.requires_grad}
    assert names == {n for n, _ in made.gan.generator.named_parameters() if is_mined(n)}
    assert equal(parameters(small("stylegan2"), False), parameters(made.gan, False))


def test_the_miners_size_is_the_settings() -> None:
    made = run(steps=0, layers=3, width=5)
    miner = miner_of(made.gan.generator)
    assert miner is not None
    z = made.gan.spec.z_dim
    assert sum(p.numel() for p in miner.parameters()) == (z * 5 + 5) + (5 * 5 + 5) + (5 * z + z)
    assert minegan.METHOD.finish(made.gan) == (z * 5 + 5) + (5 * 5 + 5) + (5 * z + z)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_that_is_left_draws_what_was_trained(family: str, tmp_path: Path) -> None:
    made = run(family, joint_from=0)
    with torch.no_grad():
        for name, parameter in made.gan.generator_ema.named_parameters():
            if is_mined(name):
                parameter.add_(0.1)
    made.gan.generator_ema.eval()
    while_training = sample(made.gan.generator_ema, 4, 0).astype(int)
    tensors = gan_tensors(made.gan)
    assert minegan.METHOD.finish(made.gan) > 0
    assert isinstance(made.gan.prior, MinedNormal)
    assert equal(tensors, gan_tensors(made.gan))
    assert {n.split(".")[0] for n in tensors} == {"generator", "generator_ema", "discriminator", "prior"}
    assert not any(is_mined(name) for name in tensors)
    kept = sample(made.gan.generator_ema, 4, 0)
    assert abs(kept - while_training).max() <= 1
    save_gan(made.gan, tmp_path)
    again = load_gan(tmp_path)
    assert (sample(again.generator_ema, 4, 0) == kept).all()
    assert (sample(open_generator(tmp_path), 4, 0) == kept).all()
    again.prior = None
    assert (sample(again.generator_ema, 4, 0) != kept).any()


def test_networks_without_a_miner_are_left_alone() -> None:
    gan = small("resnet_gan")
    before = copies(gan.generator)
    assert detach(gan) == 0
    assert gan.prior is None
    assert equal(before, copies(gan.generator))
    attach(gan.generator, Miner(gan.spec.z_dim, 2, 4, torch.Generator()))
    assert not equal(before, copies(gan.generator))


def test_a_run_goes_on_exactly() -> None:
    whole, state = run(steps=4), copy.deepcopy(run(steps=2).state_dict())
    second = run(steps=1)
    second.load_state_dict(state)
    for _ in range(2):
        second.step()
    assert equal(everything(whole), everything(second))


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"prior": "gmm"}, ("finetune.method=minegan", "finetune.prior=gmm")),
        ({"budget": {"epochs": 1}}, ("finetune.minegan.joint_from=0.5", "finetune.budget.kimg")),
    ],
)
def test_what_cannot_go_together_is_refused_by_both_keys(
    changes: dict[str, Any], keys: tuple[str, str]
) -> None:
    assert minegan.METHOD.check is not None
    with pytest.raises(ConfigError) as error:
        minegan.METHOD.check(recipe(method="minegan", **changes))
    assert all(key in error.value.message for key in keys)
    assert error.value.remedy
    minegan.METHOD.check(recipe(method="minegan"))
    minegan.METHOD.check(recipe(method="minegan", budget={"epochs": 1}, minegan={"joint_from": None}))


def test_the_stage_keeps_the_miner_as_the_models_prior(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    workshop = Workshop(tmp_path).furnish()
    workshop.run(
        **quick(finetune__method="minegan", finetune__minegan="{width: 4}", finetune__controls="[scratch]")
    )
    assert workshop.report()["prior"] == {"kind": "mined", "layers": 2}
    assert workshop.report()["added_parameters"] == 8 * 4 + 4 + 4 * 8 + 8
    assert workshop.report("scratch")["prior"] == {"kind": "normal"}
    model = workshop.models / "chosen"
    assert isinstance(load_gan(model).prior, MinedNormal)
    assert any(name.startswith("prior.") for name in read_tensors(model / "last.safetensors"))
    assert load_gan(workshop.models / "scratch").prior is None
