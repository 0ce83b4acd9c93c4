from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from stages.test_finetune import Workshop, quick
from training.nets import EVERYTHING, copies, equal, everything, make, recipe

from graftgan.checkpoints.store import gan_tensors, load_gan, save_gan
from graftgan.errors import ConfigError
from graftgan.gans.base import build, sample
from graftgan.gans.patch_heads import heads_of, is_patch_head
from graftgan.gans.prior import Mixture
from graftgan.training.game import AnchoredGame, Opinion
from graftgan.training.prior import MovingPrior
from graftgan.training.trainer import Trainer
from graftgan.transfer import method
from graftgan.transfer.cdc import chosen_layers, prepare
from graftgan.transfer.penalties import make_penalties
from transfer.families import OTHERS, SIZES, on_meta, small, train, trainer

CDC: dict[str, Any] = {"method": "cdc", "cdc": {"anchors": 3, "weight": 10.0}}


def anchored(**changes: Any) -> Trainer:
    run = make(**{**CDC, **changes})
    run.add_penalties(make_penalties(run.settings))
    return run


def stepped(run: Trainer, steps: int) -> Trainer:
    run.seed_noise()
    for _ in range(steps):
        run.step()
    return run


def latents_of(run: Trainer) -> torch.Tensor:
    """The latents that one phase of G draws fakes from."""
    seen: list[torch.Tensor] = []
    hook = run.gan.generator.mapping.register_forward_pre_hook(lambda m, given: seen.append(given[0]))
    run._phase_g(None)
    hook.remove()
    # Those of the penalty come after.
    return torch.cat(seen[:2])


def test_half_of_the_fakes_come_from_near_the_anchors_and_the_others_from_the_prior() -> None:
    run = anchored(batch=8)
    anchors = heads_of(run.gan.discriminator).anchors
    assert anchors.shape == (3, 8)
    z = latents_of(run)
    nearest = torch.cdist(z, anchors).min(dim=1).values
    assert z.shape == (8, 8)
    assert float(nearest[:4].max()) < 0.05 * 8 < 1.0 < float(nearest[4:].min())
    assert len({int(i) for i in torch.cdist(z[:4], anchors).argmin(dim=1)}) > 1


def test_without_noise_they_are_the_anchors() -> None:
    run = anchored(cdc={"anchors": 3, "anchor_noise": 0.0})
    z = latents_of(run)
    assert float(torch.cdist(z[:2], heads_of(run.gan.discriminator).anchors).min(dim=1).values.max()) < 1e-6


def test_each_half_has_its_own_judge() -> None:
    game = AnchoredGame(anchored().gan.discriminator, 0.05)
    fake, patches = torch.tensor([[1.0], [2.0], [30.0], [40.0]]), torch.zeros(4, 2, 2)
    patches[:2], patches[2:] = 50.0, 3.0
    expected = F.softplus(torch.tensor([-1.0, -2.0])).mean() + F.softplus(torch.tensor(-3.0))
    torch.testing.assert_close(game.generator_loss(Opinion(fake, (patches,))), expected)
    real, real_patches = torch.tensor([[5.0], [6.0], [7.0], [8.0]]), torch.full((4, 2, 2), 2.0)
    both = Opinion(torch.cat([fake, real]), (torch.cat([patches, real_patches]),))
    whole = F.softplus(torch.tensor([1.0, 2.0])).mean() + F.softplus(-real).mean()
    in_parts = F.softplus(torch.tensor(3.0)) + F.softplus(torch.tensor(-2.0))
    torch.testing.assert_close(game.discriminator_loss(both), whole + in_parts)
    twice = Opinion(fake, (patches, patches))
    torch.testing.assert_close(game.generator_loss(twice), expected)


@pytest.mark.parametrize("family", [*SIZES, *OTHERS])
def test_away_from_anchors_the_layers_behind_the_patches_say_nothing(family: str) -> None:
    run = trainer(family, method="cdc", batch=4)
    # In evaluation, since the power method of spectral norms goes on with every other pass.
    run.gan.discriminator.eval()
    weights = [n for n, p in run.gan.discriminator.named_parameters() if p.ndim > 1]
    with torch.no_grad():
        for parameter in heads_of(run.gan.discriminator).parameters():
            parameter.fill_(0.3)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    labels = torch.tensor([0, 1, 0, 1]) if run.gan.spec.classes else None
    loss = run.game.generator_loss(run.game.opinion(images, labels))
    torch.autograd.backward(loss)
    with torch.no_grad():
        last = run.gan.discriminator.get_parameter(weights[-1])
        last.add_(torch.randn(last.shape, generator=torch.Generator().manual_seed(1)))
    second = images.detach().clone().requires_grad_(True)
    torch.autograd.backward(run.game.generator_loss(run.game.opinion(second, labels)))
    assert torch.equal(second.grad[2:], images.grad[2:])
    assert images.grad[2:].any()
    assert not torch.equal(second.grad[:2], images.grad[:2])


def test_statistics_of_a_batch_keep_the_halves_apart() -> None:
    run = anchored(batch=8)
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    other = images.clone()
    other[4:] = 0.0
    with torch.no_grad():
        first, second = (run.game.opinion(x, None).logits for x in (images, other))
    torch.testing.assert_close(first[:4], second[:4])
    assert not torch.allclose(first[4:], second[4:])


@pytest.mark.parametrize("family", [*SIZES, *OTHERS])
def test_everything_moves_heads_too_and_anchors_stay(family: str) -> None:
    run = trainer(family, **{**CDC, "batch": 4})
    anchors = heads_of(run.gan.discriminator).anchors.clone()
    before = copies(run.gan.discriminator)
    train(run, 3)
    after = copies(run.gan.discriminator)
    assert torch.equal(after["patches.anchors"], anchors)
    heads = [name for name in after if is_patch_head(name) and name != "patches.anchors"]
    assert heads and all(not torch.equal(after[name], before[name]) for name in heads)
    assert not equal(copies(run.gan.generator), copies(small(family).generator))


def test_without_patches_it_is_full_with_the_penalty_bit_for_bit() -> None:
    off = {"weight": 10.0, "patches": False}
    by_method = stepped(anchored(cdc=off), 2)
    by_penalty = make(penalties=("cdc",), cdc=off)
    by_penalty.add_penalties(make_penalties(by_penalty.settings))
    assert equal(everything(by_method), everything(stepped(by_penalty, 2)))
    nothing = stepped(anchored(cdc={"weight": 0.0, "patches": False}), 2)
    assert equal(everything(nothing), everything(stepped(make(method="full"), 2)))
    assert not equal(everything(nothing), everything(by_method))


def test_a_run_that_stops_goes_on_as_if_it_had_not() -> None:
    settings = {**EVERYTHING, "batch": 4}
    whole = stepped(anchored(**settings), 4)
    first = stepped(anchored(**settings), 2)
    state = copy.deepcopy(first.state_dict())
    second = anchored(**settings)
    heads_of(second.gan.discriminator).anchors.zero_()
    second.load_state_dict(state)
    for _ in range(2):
        second.step()
    assert equal(everything(second), everything(whole))


def test_what_comes_out_is_a_plain_checkpoint(tmp_path: Path) -> None:
    run = stepped(anchored(), 2)
    sampled, tensors = sample(run.gan.generator_ema, 3, 0), gan_tensors(run.gan)
    assert not [name for name in tensors if "patches" in name]
    save_gan(run.gan, tmp_path)
    assert method("cdc").finish(run.gan) == 0
    assert heads_of(run.gan.discriminator) is None
    assert equal(gan_tensors(run.gan), tensors)
    assert (sample(load_gan(tmp_path).generator_ema, 3, 0) == sampled).all()


def test_anchors_are_of_the_seed_and_of_the_prior() -> None:
    def anchors(run: Trainer) -> torch.Tensor:
        return heads_of(run.gan.discriminator).anchors

    run, other = anchored(), small("stylegan2")
    assert torch.equal(anchors(run), anchors(anchored()))
    prepare(other, recipe(method="cdc", cdc={"anchors": 3}, seed=1))
    assert not torch.equal(anchors(run), heads_of(other.discriminator).anchors)
    far = Mixture(torch.ones(1), torch.full((1, 8), 7.0), torch.eye(8)[None], torch.full((1, 8), 1e-4), 0.0)
    run.set_prior(MovingPrior(far, "fixed"))
    assert float((anchors(run) - 7.0).abs().max()) < 0.1


def test_patches_are_a_twelfth_to_a_quarter_of_the_image() -> None:
    wide = on_meta("stylegan2", resolution=256)
    settings = recipe(method="cdc")
    assert [layer.patch_px for layer in chosen_layers(wide, settings)] == [22, 50]
    assert [layer.name for layer in chosen_layers(build(small("stylegan2").spec, 0), settings)] == ["b32"]
    for family in (*SIZES, *OTHERS):
        sides = [layer.patch_px for layer in chosen_layers(small(family), settings)]
        assert sides and all(2.6 < side <= 8 for side in sides), family
    attentive = on_meta("biggan", resolution=128, classes=2, d_attn=(64,))
    assert [layer.name for layer in chosen_layers(attentive, settings)] == ["blocks.0.0"]
    chosen = chosen_layers(wide, recipe(method="cdc", cdc={"patch_px": [8, 22]}))
    assert [layer.name for layer in chosen] == ["b256", "b128"]


def test_what_cannot_go_together_names_both_keys() -> None:
    gan = small("stylegan2")
    with pytest.raises(ConfigError, match=r"finetune\.cdc\.patch_px is \[9, 10\], .* 8, 22, 50 pixels"):
        chosen_layers(gan, recipe(cdc={"patch_px": [9, 10]}))
    check = method("cdc").check
    assert check is not None
    with pytest.raises(ConfigError, match=r"finetune\.batch=5 .* finetune\.cdc\.patches=true"):
        check(recipe(batch=5))
    check(recipe(batch=5, cdc={"patches": False}))
    with pytest.raises(ConfigError, match=r"finetune\.cdc\.patch_px is \[9, 8\]"):
        check(recipe(cdc={"patch_px": [9, 8]}))


def test_a_run_of_the_stage_ends_in_a_plain_model(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path).furnish()
    workshop.run(**quick(finetune__method="cdc", finetune__cdc="{anchors: 2}"))
    model = load_gan(workshop.models / "chosen")
    assert heads_of(model.discriminator) is None
    curves = (workshop.models / "chosen" / "curves.csv").read_text()
    assert "penalty_cdc" in curves.splitlines()[0]


def test_the_stage_refuses_a_batch_without_halves(tmp_path: Path) -> None:
    Workshop(tmp_path).furnish().fails(
        ConfigError, r"finetune\.batch=9 .* finetune\.cdc\.patches", finetune__method="cdc", finetune__batch=9
    )


def test_it_trains_in_reduced_precision_and_compiled_networks_are_left_aside() -> None:
    run = stepped(anchored(precision="bf16"), 2)
    assert run.finite()
    moved = heads_of(run.gan.discriminator).weight0
    assert moved.dtype is torch.float32 and bool(moved.any())
    assert anchored(compiled=True).game.judge is not None
    assert isinstance(anchored(compiled=True).game.judge, type(run.gan.discriminator))
