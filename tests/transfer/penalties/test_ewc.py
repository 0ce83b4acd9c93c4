from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training.nets import copies, equal, everything, recipe

from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, build, draw_latents
from graftgan.gans.spec import GanSpec
from graftgan.transfer.penalties.ewc import ElasticWeightConsolidation, fisher_diagonal
from transfer.penalties.runs import moved, networks, silent, through_disk, trained
from transfer.penalties.test_bsd import BIGGAN

IMAGES, LOGITS = torch.zeros(4, 3, 32, 32), torch.zeros(4, 1)
QUICK = {"ewc_samples": 3, "ewc_weight": 50.0}


def started(gan: Gan, **changes: Any) -> ElasticWeightConsolidation:
    penalty = ElasticWeightConsolidation()
    penalty.start(gan, recipe(**{**QUICK, **changes}))
    return penalty


def one_by_one(gan: Gan, samples: int, seed: int) -> dict[str, Tensor]:
    """The definition, with `.grad` and the probability itself."""
    rng = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    squares = {name: torch.zeros_like(p) for name, p in gan.generator.named_parameters()}
    for _ in range(samples):
        z, labels = draw_latents(gan.spec, 1, rng)
        gan.generator.zero_grad(set_to_none=True)
        torch.sigmoid(gan.discriminator(gan.generator(z, labels), labels)).log().sum().backward()
        for name, parameter in gan.generator.named_parameters():
            if parameter.grad is not None:
                squares[name] += parameter.grad.square()
    gan.generator.zero_grad(set_to_none=True)
    gan.discriminator.zero_grad(set_to_none=True)
    return {name: (total / samples).detach() for name, total in squares.items()}


@pytest.mark.parametrize("family", ["stylegan2", "biggan"])
def test_the_fisher_information_is_the_mean_square_of_each_images_gradient(family: str) -> None:
    gan = moved(networks()) if family == "stylegan2" else build(GanSpec.from_dict(BIGGAN), 0)
    found = fisher_diagonal(gan, 4, seed=3)
    gan.generator.eval()
    gan.discriminator.eval()
    expected = one_by_one(gan, 4, seed=3)
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-12)
        assert (found[name] >= 0).all()
    assert sum(float(f.sum()) for f in found.values()) > 0


def test_a_batchs_gradient_would_be_something_else() -> None:
    gan = moved(networks())
    found = fisher_diagonal(gan, 4, seed=3)
    z, _ = draw_latents(gan.spec, 4, torch.Generator().manual_seed(3))
    value = torch.nn.functional.logsigmoid(gan.discriminator(gan.generator(z))).mean()
    parameters = dict(gan.generator.named_parameters())
    gradients = torch.autograd.grad(value, list(parameters.values()))
    of_batch = sum(float(g.square().sum()) for g in gradients)
    assert of_batch < 0.9 * sum(float(f.sum()) for f in found.values())


@pytest.mark.parametrize("family", ["stylegan2", "biggan"])
def test_computing_it_leaves_no_trace(family: str) -> None:
    gan = networks() if family == "stylegan2" else build(GanSpec.from_dict(BIGGAN), 0)
    gan.generator.train()
    gan.generator.freeze_statistics(True)
    modes = [module.training for module in gan.generator.modules()]
    before = [copies(gan.generator), copies(gan.discriminator), {"rng": torch.get_rng_state()}]
    fisher_diagonal(gan, 2, seed=0)
    after = [copies(gan.generator), copies(gan.discriminator), {"rng": torch.get_rng_state()}]
    assert all(equal(a, b) for a, b in zip(before, after, strict=True))
    assert modes == [module.training for module in gan.generator.modules()]
    assert all(p.grad is None for p in [*gan.generator.parameters(), *gan.discriminator.parameters()])


def test_what_rests_at_the_first_step_has_its_information_too() -> None:
    gan = moved(networks())
    whole = fisher_diagonal(gan, 2, seed=0)
    resting = dict(list(gan.generator.named_parameters())[::2])
    for parameter in resting.values():
        parameter.requires_grad_(False)
    assert equal(fisher_diagonal(gan, 2, 0, whole), whole)
    assert not any(parameter.requires_grad for parameter in resting.values())
    assert fisher_diagonal(gan, 2, 0).keys() == whole.keys() - resting.keys()


def test_the_seed_decides_it() -> None:
    gan = moved(networks())
    runs = []
    for seed, disturbance in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(disturbance)
        runs.append(fisher_diagonal(gan, 2, seed))
    assert equal(runs[0], runs[1])
    assert not equal(runs[0], runs[2])


def test_the_term_and_its_gradient_are_those_of_a_quadratic() -> None:
    gan = networks()
    penalty = started(gan)
    start = copies(gan.generator)
    assert float(penalty.generator_term(gan, IMAGES, LOGITS, silent)) == 0.0
    moved(gan)
    term = penalty.generator_term(gan, IMAGES, LOGITS, silent)
    names, parameters = zip(*gan.generator.named_parameters(), strict=True)
    expected = torch.zeros(())
    for name, p, gradient in zip(names, parameters, torch.autograd.grad(term, parameters), strict=True):
        expected += 50 * (penalty.fisher[name] * (p - start[name]) ** 2).sum().detach()
        wanted = (2 * 50 * penalty.fisher[name] * (p - start[name])).detach()
        torch.testing.assert_close(gradient, wanted)
    torch.testing.assert_close(term.detach(), expected)
    assert penalty.discriminator_term(gan, IMAGES, LOGITS, silent) is None


def test_a_run_computes_it_at_its_first_step_from_the_source() -> None:
    trainer = trained(1, ("ewc",), **QUICK)
    (penalty,) = trainer.penalties
    assert isinstance(penalty, ElasticWeightConsolidation)
    expected = fisher_diagonal(networks(), 3, trainer.settings.seed)
    for name, values in penalty.fisher.items():
        torch.testing.assert_close(values, expected[name], rtol=1e-3, atol=1e-9)
    assert trainer.meter.take()["penalty_ewc"] == 0.0


def test_a_strong_pull_keeps_the_weights_that_matter() -> None:
    fisher = fisher_diagonal(networks(), 3, 0)
    start = dict(networks().generator.named_parameters())

    def distance(weight: float) -> float:
        end = trained(4, ("ewc",), ewc_samples=3, ewc_weight=weight).gan.generator
        return sum(float((fisher[n] * (p - start[n]) ** 2).sum()) for n, p in end.named_parameters())

    assert distance(1e9) < 0.5 * distance(0.0)


def test_the_saved_information_is_laid_out_like_the_weights(tmp_path: Path) -> None:
    trainer = trained(2, ("ewc",), **QUICK)
    again = trained(0, ("ewc",), **QUICK)
    again.load_state_dict(through_disk(trainer, tmp_path))
    for whole, read in zip(trainer.penalties, again.penalties, strict=True):
        assert isinstance(whole, ElasticWeightConsolidation)
        assert isinstance(read, ElasticWeightConsolidation)
        assert equal(whole.fisher, read.fisher)
        assert [f.stride() for f in whole.fisher.values()] == [f.stride() for f in read.fisher.values()]
    assert equal(everything(trainer), everything(again))


def test_a_source_without_a_discriminator_is_refused_by_both_keys() -> None:
    gan = networks()
    gan.fresh = ("discriminator",)
    with pytest.raises(
        ConfigError, match=r"finetune\.penalties: ewc .* finetune\.fresh_discriminator"
    ) as error:
        started(gan)
    assert "l2_sp" in error.value.remedy
