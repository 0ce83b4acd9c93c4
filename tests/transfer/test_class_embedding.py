from __future__ import annotations

import copy
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training.nets import copies, pictures, recipe

from graftgan.errors import ConfigError, DataError
from graftgan.gans.base import Gan, draw_latents, sample
from graftgan.gans.class_table import PLACES, class_table, generate, take_classes
from graftgan.transfer import method
from graftgan.transfer.class_embedding import ClassTuner, table_name
from graftgan.transfer.class_goals import samples_of_others
from graftgan.transfer.class_objectives import Probe, Realism
from graftgan.transfer.direct import Task
from transfer.families import on_meta, small
from transfer.needs import check_need


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("net") / "net.pt"
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 5))
    torch.jit.script(layers).save(str(file))
    return f"torchscript:{file}?px=16&range=-1_1"


def tuner(network: str, family: str = "biggan", alone: int | None = None, **section: Any) -> ClassTuner:
    """A tuner with a network of features that takes no time; `alone` makes a model of one class."""
    whole = small(family)
    gan = whole if alone is None else take_classes(whole, [alone])
    labels = np.arange(12, dtype=np.int32) % 3 if alone is None else None
    changes = section.pop("whole", {})
    usual = {"use": "repair", "classes": (1,), "features": network, "starts": 2, "steps_per_latents": 2}
    settings = recipe(
        method="class_embedding", controls=(), class_embedding={**usual, **section},
        **{"budget": {"kimg": 0.032}, "evaluate_every_kimg": 0.016, "lr_cooldown": 0.0, **changes},
    )  # fmt: skip
    method("class_embedding").apply(gan, settings)
    return ClassTuner(Task(gan, pictures(12), labels, settings, torch.device("cpu"), whole))


def states(gan: Gan) -> dict[str, torch.Tensor]:
    nets = {"g": gan.generator, "d": gan.discriminator, "ema": gan.generator_ema}
    return {f"{k}.{n}": t for k, net in nets.items() for n, t in copies(net).items()}


def moved(run: ClassTuner, steps: int = 3) -> set[str]:
    before = states(run.gan)
    for _ in range(steps):
        run.step()
    after = states(run.gan)
    return {name for name in before if not torch.equal(before[name], after[name])}


def parts(objective: Any, name: str) -> dict[str, torch.Tensor]:
    """All tensors of what an objective consists of: networks, classifiers, rows of images."""
    found = {}
    for key, part in vars(objective).items():
        if isinstance(part, torch.nn.Module):
            found |= {f"{name}.{key}.{n}": value for n, value in copies(part).items()}
        elif isinstance(part, torch.Tensor):
            found[f"{name}.{key}"] = part.clone()
        elif is_dataclass(part):
            found |= parts(part, f"{name}.{key}")
    return found


OBJECTIVES = ("classifier", "probe", "discriminator", "mmd", "inversion", "realism")


# One tensor of the judge in each: P and other networks have to rest, not only G and D.
PART_OF = {
    "classifier": "classifier.logits.network.1.weight", "probe": "probe.weight", "mmd": "mmd.real",
    "discriminator": "discriminator.discriminator.linear.bias", "inversion": "inversion.rows",
    "realism": "realism.judge.discriminator.linear.bias",
}  # fmt: skip


def of(objective: str, network: str) -> dict[str, Any]:
    extra = {"classifier": network} if objective == "classifier" else {}
    return {"objective": objective, **extra}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_only_the_row_moves(objective: str, network: str) -> None:
    run = tuner(network, **of(objective, network))
    rows = class_table(run.gan.generator)
    asked = parts(run.objectives[0], objective)
    assert PART_OF[objective] in asked
    assert moved(run) == {"g.shared.weight", "ema.shared.weight"}
    now = parts(run.objectives[0], objective)
    assert {name for name in asked if not torch.equal(asked[name], now[name])} == set()
    for generator in (run.gan.generator, run.gan.generator_ema):
        now = class_table(generator)
        assert torch.equal(now[[0, 2]], rows[[0, 2]] if generator is run.gan.generator else run.table[[0, 2]])
        assert not torch.equal(now[1], rows[1])


@pytest.mark.parametrize("family", ["biggan", "biggan_deep"])
def test_a_model_of_one_class_moves_and_its_source_rests(family: str, network: str) -> None:
    run = tuner(network, family, alone=1)
    source = states(run.source)
    name = PLACES[family].name
    assert moved(run) == {f"g.{name}", f"ema.{name}"}
    after = states(run.source)
    assert all(torch.equal(source[n], after[n]) for n in source)


def test_the_tuned_row_draws_what_the_model_draws(network: str) -> None:
    run = tuner(network, alone=1)
    moved(run)
    whole, rows = run.whole()
    assert rows == [1] and whole.spec.classes == 3
    z = run.batch_latents(0)
    vector = class_table(run.gan.generator_ema)[0]
    drawn = run.gan.generator_ema(z, torch.zeros(len(z), dtype=torch.long))
    assert torch.equal(run.draw(z, vector), drawn)


def test_new_classes_come_behind_the_old(network: str) -> None:
    run = tuner(network, alone=0, use="repurpose", classes=())
    whole, rows = run.whole()
    assert rows == [3] and whole.spec.classes == 4
    for label in range(3):
        old = sample(run.source.generator_ema, 2, 0, labels=label)
        assert (sample(whole.generator_ema, 2, 0, labels=label) == old).all()


def test_rows_stay_in_the_range_of_the_table(network: str) -> None:
    run = tuner(network, whole={"budget": {"kimg": 0.064}}, lr=5.0, starts=1)
    moved(run, 6)
    row = class_table(run.gan.generator_ema)[1]
    assert float(row.min()) >= run.low and float(row.max()) <= run.high
    assert bool(((row == run.low) | (row == run.high)).any())


def test_without_clip_they_may_leave_it(network: str) -> None:
    run = tuner(network, whole={"budget": {"kimg": 0.064}}, lr=5.0, starts=1, clip=False)
    moved(run, 6)
    row = class_table(run.gan.generator_ema)[1]
    assert float(row.min()) < run.low or float(row.max()) > run.high


def test_cut_coordinates_have_no_gradient(network: str) -> None:
    run = tuner(network, objective="discriminator", alpha=0.0)
    vector = run.vectors[0]
    with torch.no_grad():
        vector.copy_(run.table[1])
        vector[0] = run.high + 1
    run.loss().backward()
    assert vector.grad is not None
    assert vector.grad[0] == 0 and (vector.grad[1:] != 0).all()


def test_the_gradient_is_that_of_finite_differences(network: str) -> None:
    run = tuner(network, objective="discriminator", alpha=0.0)
    for net in (run.source.generator_ema, run.source.discriminator):
        net.double()
    # Within the range: at its ends the slope is one-sided.
    vector = 0.5 * run.table[1].double()
    goal = run.objectives[0]
    z = run.batch_latents(0).double()

    def value(v: torch.Tensor) -> torch.Tensor:
        return goal(run.draw(z, v).double())

    wanted = vector.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(value(wanted), wanted)
    for i in range(len(vector)):
        step = torch.zeros_like(vector)
        step[i] = 1e-4
        expected = float((value(vector + step) - value(vector - step)) / 2e-4)
        assert float(slope[i]) == pytest.approx(expected, rel=1e-2, abs=1e-6)


def test_decay_alone_shrinks_a_row(network: str) -> None:
    run = tuner(network, weight_decay=0.9, lr=0.001, alpha=0.0)
    run.objectives = [lambda images: images.sum() * 0]
    norms = [float(run.vectors[0].detach().norm())]
    for _ in range(3):
        run.step()
        norms.append(float(run.vectors[0].detach().norm()))
    assert norms == sorted(norms, reverse=True) and norms[-1] < norms[0]


def test_every_start_sees_the_same_latents_and_has_its_turn(network: str) -> None:
    run = tuner(network)
    seen = []
    for _ in range(8):
        turn = run.turn()
        seen.append((turn.start, turn.step, run.batch_latents(turn.step)))
        run.step()
    assert [(start, step) for start, step, _ in seen] == [(s, i) for s in range(2) for i in range(4)]
    for (_, _, first), (_, _, second) in zip(seen[:4], seen[4:], strict=True):
        assert torch.equal(first, second)
    assert torch.equal(seen[0][2], seen[1][2]) and not torch.equal(seen[0][2], seen[2][2])


def test_the_same_seed_gives_the_same_rows(network: str) -> None:
    runs = [tuner(network, objective="probe") for _ in range(2)]
    for run in runs:
        moved(run)
    assert torch.equal(class_table(runs[0].gan.generator), class_table(runs[1].gan.generator))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_memory_grows_as_it_is_counted_on_few_images(objective: str, network: str) -> None:
    # An inversion has no more images than its class.
    sizes = (1, 4) if objective == "inversion" else (6, 12)
    check_need(lambda: tuner(network, **of(objective, network)), *sizes)


@pytest.mark.parametrize("objective", ["probe", "inversion"])
def test_a_run_goes_on_exactly(objective: str, network: str) -> None:
    whole = tuner(network, objective=objective)
    moved(whole, 6)
    first = tuner(network, objective=objective)
    moved(first, 3)
    saved = copy.deepcopy(first.state_dict())
    again = tuner(network, objective=objective)
    again.load_state_dict(saved)
    moved(again, 3)
    a, b = states(again.gan), states(whole.gan)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_starts_begin_where_they_are_told(network: str) -> None:
    near = tuner(network, init=("target", "mean"), noise=0.0)
    assert torch.equal(near.vectors[0], near.table[1])
    assert torch.equal(near.vectors[1], near.table.mean(dim=0))
    far = tuner(network, init=("random", "top"))
    assert any(torch.equal(far.vectors[0], row) for row in far.table)


def test_every_start_but_the_last_is_a_part(network: str) -> None:
    run = tuner(network, starts=3)
    assert run.steps_per_start == 2, "eight steps in all"
    ends = {}
    for step in range(1, 9):
        run.step()
        if run.part_done():
            ends[step] = class_table(run.gan.generator_ema)[1]
    assert list(ends) == [2, 4]
    for vector, tuned in zip(ends.values(), run.vectors, strict=False):
        torch.testing.assert_close(vector, run.clipped(tuned.detach()))


def test_starts_at_the_top_are_the_best_classes_in_their_order(network: str) -> None:
    run = tuner(network, init=("top",), starts=4)
    z = draw_latents(run.source.spec, 10, torch.Generator().manual_seed(run.settings.seed))[0]
    losses = [float(run.objectives[0](run.draw(z, row)).detach()) for row in run.table]
    order = np.argsort(losses).tolist()
    assert len(set(losses)) == 3 and order != sorted(order), "or any order would do"
    # With more starts than classes it is their turn again.
    expected = [run.table[i] for i in [*order, order[0]]]
    assert all(torch.equal(a, b) for a, b in zip(run.vectors, expected, strict=True))


def test_a_probe_is_taught_by_samples_of_the_other_classes_alone() -> None:
    source = small("biggan")
    table = class_table(source.generator_ema)
    for row, others in ((1, [0, 2]), (None, [0, 1, 2])):
        made = samples_of_others(source, row, 5, seed=3)
        z = draw_latents(source.spec, 5, torch.Generator().manual_seed(3))[0]
        vectors = table[[others[i % len(others)] for i in range(5)]]
        with torch.no_grad():
            torch.testing.assert_close(made, generate(source.generator_ema, z, vectors))


def test_realism_goes_by_the_other_classes(network: str) -> None:
    run = tuner(network, objective="realism", classes=(2,), alpha=0.5)
    judge = run.source.discriminator
    z = draw_latents(run.source.spec, 64, torch.Generator().manual_seed(0))[0]
    logits = []
    with torch.no_grad():
        for other in (0, 1):
            images = generate(run.source.generator_ema, z, run.table[other].expand(64, -1))
            logits.append(float(judge(images, torch.full((64,), other)).mean()))
    (objective,) = run.objectives
    assert isinstance(objective, Realism) and objective.judge.target == 2
    assert logits[0] != logits[1] and objective.floor == pytest.approx(np.mean(logits), rel=1e-4)


def test_the_loss_falls(network: str) -> None:
    plain = {"alpha": 0.0, "weight_decay": 0.0, "starts": 1, "lr": 0.01, "clip": False}
    run = tuner(network, objective="probe", whole={"budget": {"kimg": 0.16}}, **plain)
    z = run.batch_latents(99)
    assert isinstance(run.objectives[0], Probe)
    before = float(run.objectives[0](run.draw(z, run.vectors[0])).detach())
    moved(run, 20)
    assert float(run.objectives[0](run.draw(z, run.vectors[0])).detach()) < before


def test_several_classes_take_turns(network: str) -> None:
    run = tuner(network, classes=(0, 2))
    before = run.table.clone()
    moved(run, 4)
    after = class_table(run.gan.generator_ema)
    assert torch.equal(after[1], before[1])
    assert not torch.equal(after[0], before[0]) and not torch.equal(after[2], before[2])


def test_diversity_needs_what_it_compares(network: str) -> None:
    for kind in ("features", "pixelwise"):
        run = tuner(network, objective="probe", diversity=kind, alpha=0.5)
        run.step()
        assert run.meter.take()["class_diversity"] > 0
    run = tuner(network, **of("classifier", network), diversity="softmax", alpha=0.5)
    run.step()
    assert run.meter.take()["class_diversity"] > 0


def test_more_starts_than_steps_are_refused(network: str) -> None:
    assert tuner(network, whole={"budget": {"kimg": 0.016}, "batch": 4}, starts=4).steps_per_start == 1
    with pytest.raises(ConfigError, match=r"class_embedding\.starts=5 .*finetune\.budget has 4"):
        tuner(network, whole={"budget": {"kimg": 0.016}, "batch": 4}, starts=5)


def test_what_does_not_fit_is_said(network: str) -> None:
    with pytest.raises(ConfigError, match="classes has 7"):
        tuner(network, classes=(7,))
    with pytest.raises(ConfigError, match="2 outputs for 1"):
        tuner(network, **of("classifier", network), classifier_classes=(0, 1))
    whole = small("biggan")
    settings = recipe(
        method="class_embedding", controls=(),
        class_embedding={"use": "repair", "classes": (1,), "features": network},
    )  # fmt: skip
    labels = np.zeros(12, np.int32)
    with pytest.raises(DataError, match="class 1 has 0 training images"):
        ClassTuner(Task(whole, pictures(12), labels, settings, torch.device("cpu"), whole))
    whole.fresh = ("discriminator",)
    with_d = settings.model_copy(
        update={"class_embedding": settings.class_embedding.model_copy(update={"objective": "discriminator"})}
    )
    with pytest.raises(ConfigError, match="discriminator"):
        ClassTuner(Task(whole, pictures(12), labels, with_d, torch.device("cpu"), whole))


def test_at_full_size_one_row_is_128_values() -> None:
    gan = on_meta("biggan", classes=1000)
    settings = recipe(method="class_embedding")
    method("class_embedding").apply(gan, settings)
    assert {n for n, p in gan.generator.named_parameters() if p.requires_grad} == table_name(gan, settings)
    assert not any(p.requires_grad for p in gan.discriminator.parameters())
    assert gan.generator.get_parameter("shared.weight")[0].numel() == 128


def test_a_source_without_classes_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"finetune\.method=class_embedding: .* family=stylegan2, has no classes"
    ):
        method("class_embedding").apply(small("stylegan2"), recipe(method="class_embedding"))


def test_file_of_features_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"net\.pt"):
        tuner(f"torchscript:{tmp_path / 'net.pt'}?px=8")
