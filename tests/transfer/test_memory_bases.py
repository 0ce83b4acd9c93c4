from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from stages.test_finetune import Workshop, quick
from training.nets import copies, equal, recipe

from graftgan.checkpoints.adapters import ADAPTER, Adapter, Library, read_adapter, write_adapter
from graftgan.checkpoints.factors import (
    EARLIER,
    LEFT,
    RIGHT,
    SCALE,
    coefficients,
    expand,
    factorised,
    resolve,
)
from graftgan.checkpoints.store import WEIGHTS, adapter_tensors, gan_tensors, load_gan, save_gan
from graftgan.cli import cli
from graftgan.contract import digest_file
from graftgan.errors import CheckpointError, ConfigError
from graftgan.gans.base import sample
from graftgan.gans.folding import adapters
from graftgan.method_config import Compression
from graftgan.training.state import StateStore
from graftgan.transfer import method
from graftgan.transfer.adapters import apply, extract, interpolate
from graftgan.transfer.combinations import check_settings
from graftgan.transfer.memory_bases import (
    components_kept,
    compress,
    compressed_layers,
    kept_share,
    read_earlier,
)
from graftgan.transfer.penalties import make_penalties
from graftgan.transfer.penalties.low_rank import rank_term
from transfer.families import on_meta, small, train, trainer

# Layers of 8 filters would stay whole at the published shares.
HALF = {"enabled": True, "keep": [0.5] * 5, "up_to_px": 8, "components": 2}
NAME = "resnet_0_0.conv_0.parametrizations.weight.0.gamma"


def settings_of(**compression: Any) -> dict[str, Any]:
    return {"method": "gan_memory", "gan_memory": {"compress": {**HALF, **compression}}}


def with_singular_values(*values: float, rows: int = 8, columns: int = 8) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(rows, rows, generator=rng, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(columns, columns, generator=rng, dtype=torch.float64))
    return u[:, : len(values)] @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ v[:, : len(values)].T


def test_the_published_shares_by_number_of_filters() -> None:
    shares = {n: kept_share(n, Compression()) for n in (64, 128, 256, 512, 1024, 2048)}
    assert shares == {64: 1.0, 128: 1.0, 256: 0.95, 512: 0.9, 1024: 0.8, 2048: 0.8}


def test_the_term_weighs_the_tail_eleven_times_the_published_floor() -> None:
    matrix = with_singular_values(4, 3, 2, 1, 0, 0, 0, 0).requires_grad_(True)
    weights = 0.1 + torch.sigmoid(torch.arange(8) * 10 / 8)
    expected = sum(s * w for s, w in zip((4, 3, 2, 1), weights.tolist(), strict=False))
    assert rank_term(matrix).item() == pytest.approx(expected, rel=1e-5)
    assert weights[0] == pytest.approx(0.6) and weights[-1] == pytest.approx(1.1, abs=1e-3)
    rank_term(matrix).backward()
    u, _, vh = torch.linalg.svd(matrix.detach(), full_matrices=False)
    # Of a matrix of full rank: the derivative of a singular value is u v^T.
    full = with_singular_values(8, 7, 6, 5, 4, 3, 2, 1).requires_grad_(True)
    rank_term(full).backward()
    u, _, vh = torch.linalg.svd(full.detach(), full_matrices=False)
    assert full.grad is not None
    torch.testing.assert_close(full.grad, u @ torch.diag(weights.double()) @ vh, rtol=1e-4, atol=1e-5)


def test_a_residual_of_zero_has_a_finite_gradient() -> None:
    matrix = torch.zeros(6, 4, requires_grad=True)
    rank_term(matrix).backward()
    assert matrix.grad is not None and bool(torch.isfinite(matrix.grad).all())


@pytest.mark.parametrize(
    ("old", "share", "kept"),
    [
        (0, 1.0, 4),
        (0, 0.95, 4),
        (0, 0.9, 3),
        (0, 0.8, 3),
        (0, 0.7, 2),
        (0, 0.4, 1),
        (10, 0.5, 0),
        (10, 0.6, 1),
    ],
)
def test_as_few_components_as_make_up_the_share(old: float, share: float, kept: int) -> None:
    # 10 in all: cumulative shares of 0.4, 0.7, 0.9, 1.
    assert components_kept(torch.tensor([4.0, 3.0, 2.0, 1.0]), old, share) == kept


def adapter_with(matrix: torch.Tensor, **more: torch.Tensor) -> Adapter:
    tensors = {NAME: matrix.float()[:, :, None, None], NAME.replace("gamma", "beta"): torch.zeros(8, 8, 1, 1)}
    return Adapter("0" * 64, "gan_memory", {}, {}, {**tensors, **more})


def test_stored_are_2hn_plus_n_values_and_the_rest_is_the_best_of_its_rank() -> None:
    section = Compression(enabled=True, keep=(0.7,) * 5)
    matrix = with_singular_values(4, 3.2, 2, 0.8)
    made = compress(adapter_with(matrix), ["resnet_0_0.conv_0"], section, [])
    assert factorised(made) == [NAME.replace("gamma", "beta"), NAME]
    of_gamma = {n: t for n, t in made.tensors.items() if n.startswith(NAME)}
    assert sum(t.numel() for t in of_gamma.values()) == 2 * 8 * 2 + 2
    whole = resolve(made, [], "it").tensors[NAME]
    assert whole.shape == (8, 8, 1, 1)
    # Eckart and Young: what is lost are the other singular values.
    lost = (matrix - whole[:, :, 0, 0].double()).norm()
    assert lost.item() == pytest.approx((2**2 + 0.8**2) ** 0.5, rel=1e-5)


def test_matrices_that_factors_would_make_larger_stay_whole() -> None:
    matrix = with_singular_values(*range(8, 0, -1))
    made = compress(
        adapter_with(matrix), ["resnet_0_0.conv_0"], Compression(enabled=True, keep=(0.9,) * 5), []
    )
    assert torch.equal(made.tensors[NAME][:, :, 0, 0], matrix.float())


def test_a_later_task_stores_coefficients_on_what_is_there_and_its_own() -> None:
    section = Compression(enabled=True, keep=(0.7,) * 5)
    first = compress(adapter_with(with_singular_values(4, 3.2, 2, 0.8)), ["resnet_0_0.conv_0"], section, [])
    shared = NAME.replace(".gamma", ".shared.gamma.earlier")
    beta = NAME.replace(".gamma", ".shared.beta.earlier")
    residual = with_singular_values(0.1)
    task = adapter_with(residual, **{shared: torch.tensor([5.0, -1.0]), beta: torch.zeros(0)})
    second = compress(task, ["resnet_0_0.conv_0"], section, [first])
    # 6 of 6.1 are on the components of the first task already: none of its own.
    assert second.tensors[NAME + SCALE].numel() == 0
    assert coefficients(NAME, second).tolist() == [5.0, -1.0]
    left, right = first.tensors[NAME + LEFT], first.tensors[NAME + RIGHT]
    expected = left @ torch.diag(torch.tensor([5.0, -1.0])) @ right.T
    found = resolve(second, [first], "it").tensors[NAME][:, :, 0, 0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    much = adapter_with(10 * residual, **{shared: torch.tensor([0.1, 0.0]), beta: torch.zeros(0)})
    third = compress(much, ["resnet_0_0.conv_0"], section, [first])
    assert third.tensors[NAME + SCALE].tolist() == pytest.approx([1.0])
    assert third.tensors[NAME + EARLIER].tolist() == pytest.approx([0.1, 0.0])


def test_the_sum_of_components_is_the_product_whatever_the_layout() -> None:
    rng = torch.Generator().manual_seed(3)
    left, scale, right = (torch.randn(*n, generator=rng) for n in ((7, 3), (3,), (5, 3)))
    torch.testing.assert_close(expand(left, scale, right), (left * scale) @ right.T)
    shifted = torch.empty(7 * 3 + 1)[1:].view(7, 3).copy_(left)
    assert torch.equal(expand(shifted, scale, right.T.contiguous().T), expand(left, scale, right))


@pytest.mark.parametrize("family", ["resnet_gan", "stylegan2"])
def test_layers_are_those_of_small_maps(family: str) -> None:
    gan = small(family)
    assert compressed_layers(gan, recipe(method="gan_memory")) == []
    chosen = compressed_layers(gan, recipe(**settings_of()))
    expected = {
        "resnet_gan": {f"resnet_{s}_{b}.conv_{i}" for s in (0, 1) for b in (0, 1) for i in (0, 1)},
        "stylegan2": {"synthesis.b4.conv1", "synthesis.b8.conv0", "synthesis.b8.conv1"},
    }[family]
    assert set(chosen) == expected
    method("gan_memory").apply(gan, recipe(**settings_of()))
    assert compressed_layers(gan, recipe(**settings_of())) == chosen, "modulated or not"


def test_the_published_network_compresses_its_first_four_stages() -> None:
    gan = on_meta("resnet_gan", resolution=256, variant="resnet4", embed_dim=1, stages=7)
    settings = recipe(method="gan_memory", gan_memory={"compress": {"enabled": True}})
    chosen = compressed_layers(gan, settings)
    assert {name.split(".")[0] for name in chosen} == {f"resnet_{s}_0" for s in range(4)}
    method("gan_memory").apply(gan, settings)
    # What moves is what moves without: the components come at the end.
    assert sum(p.numel() for p in gan.generator.parameters() if p.requires_grad) == 10_549_248


def learnt(
    base: Path, seed: int = 0, steps: int = 3, earlier: tuple[Path, ...] = (), family: str = "resnet_gan"
) -> Adapter:
    """A task after some steps, compressed, as the stage does it."""
    run = trainer(family, ema_half_life_kimg=0.004, **settings_of(earlier=list(map(str, earlier))))
    run.add_penalties(make_penalties(run.settings))
    run.rng.manual_seed(seed)
    for _ in range(steps):
        run.step()
    tensors = gan_tensors(run.gan)
    average = {
        n.removeprefix("generator_ema."): t for n, t in tensors.items() if n.startswith("generator_ema.")
    }
    found = extract(
        load_gan(base), run.gan.spec, run.settings, digest_file(base / WEIGHTS), average,
        adapter_tensors(run.gan.generator_ema),
    )  # fmt: skip
    section, before = run.settings.gan_memory.compress, read_earlier(run.settings)
    made = compress(found, compressed_layers(load_gan(base), run.settings), section, before)
    return replace(made, after=tuple(map(digest_file, earlier)))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    save_gan(small("resnet_gan"), tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def tasks(base: Path) -> tuple[Path, Path]:
    first, second = base.parent / "first.safetensors", base.parent / "second.safetensors"
    write_adapter(learnt(base), first)
    write_adapter(learnt(base, 1, earlier=(first,)), second)
    return first, second


def test_a_later_task_starts_as_the_last_one(tasks: tuple[Path, Path], base: Path) -> None:
    first, second = tasks
    start = trainer("resnet_gan", **settings_of(earlier=[str(first), str(second)]))
    chosen = compressed_layers(load_gan(base), start.settings)
    made = apply(load_gan(base), resolve(read_adapter(second), [read_adapter(first)], "it")).generator_ema
    for name in chosen:
        present = start.gan.generator_ema.get_submodule(name).weight
        torch.testing.assert_close(present, made.get_submodule(name).weight, rtol=1e-4, atol=1e-5)
    plain = trainer("resnet_gan", **settings_of()).gan.generator_ema
    assert not torch.allclose(plain.get_submodule(chosen[0]).weight, made.get_submodule(chosen[0]).weight)


def test_coefficients_and_residuals_move_and_the_components_stay(tasks: tuple[Path, Path]) -> None:
    run = trainer("resnet_gan", **settings_of(earlier=[str(tasks[0])], every=1))
    module = run.gan.generator.get_submodule("resnet_0_0.conv_0").parametrizations.weight[0]
    left, own = module.shared["gamma"].left.clone(), module.gamma.clone()
    coefficient = module.shared["gamma"].earlier.clone()
    assert not own.any()
    run.add_penalties(make_penalties(run.settings))
    train(run)
    assert torch.equal(module.shared["gamma"].left, left)
    assert not torch.equal(module.shared["gamma"].earlier, coefficient) and module.gamma.any()
    shown = run.meter.take()
    assert shown["penalty_low_rank"] > 0


def test_the_term_makes_residuals_smaller() -> None:
    def size(weight: float) -> float:
        run = trainer("resnet_gan", **settings_of(weight=weight, every=1))
        run.add_penalties(make_penalties(run.settings))
        train(run, 4)
        return float(adapters(run.gan.generator)[NAME].detach().abs().sum())

    assert size(10.0) < size(0.0)


def test_without_weight_training_is_that_without_compression_bit_for_bit() -> None:
    plain = train(trainer("resnet_gan", method="gan_memory"))
    run = trainer("resnet_gan", **settings_of(weight=0.0))
    run.add_penalties(make_penalties(run.settings))
    assert not run.penalties
    train(run)
    assert equal(copies(plain.gan.generator), copies(run.gan.generator))


def test_a_run_goes_on_exactly(tasks: tuple[Path, Path], tmp_path: Path) -> None:
    def begun() -> Any:
        run = trainer("resnet_gan", **settings_of(earlier=[str(tasks[0])], every=2))
        run.add_penalties(make_penalties(run.settings))
        return run

    whole, first = train(begun(), 4), train(begun(), 1)
    store = StateStore(tmp_path / "states", keep=1)
    store.save(first.images_seen, first.state_dict())
    second = begun()
    state = store.latest()
    assert state is not None
    second.load_state_dict(state)
    for _ in range(3):
        second.step()
    assert equal(copies(second.gan.generator), copies(whole.gan.generator))


def test_the_first_task_keeps_its_images_and_files_are_smaller(tasks: tuple[Path, Path], base: Path) -> None:
    first, second = tasks
    shelf = Library.create(base.parent / "shelf", base)
    shelf.add("first", first)
    before = sample(apply(shelf.load_base(), shelf.read("first")).generator_ema, 3, 0)
    shelf.add("second", second)
    assert (sample(apply(shelf.load_base(), shelf.read("first")).generator_ema, 3, 0) == before).all()
    assert (sample(apply(shelf.load_base(), shelf.read("second")).generator_ema, 3, 0) != before).any()
    whole = {name: shelf.read(name) for name in shelf.names()}
    for name, path in (("first", first), ("second", second)):
        assert read_adapter(path).values < whole[name].values
        assert not factorised(whole[name])
    half = interpolate(shelf.load_base(), whole["first"], whole["second"], 0.5)
    assert NAME in half.tensors


def test_a_library_wants_the_tasks_before(tasks: tuple[Path, Path], base: Path) -> None:
    shelf = Library.create(base.parent / "shelf", base)
    with pytest.raises(CheckpointError, match=digest_file(tasks[0])) as error:
        shelf.add("second", tasks[1])
    assert "first" in error.value.remedy and not shelf.names()


def test_commands_put_a_task_together(tasks: tuple[Path, Path], base: Path) -> None:
    first, second = map(str, tasks)
    call = CliRunner().invoke
    shelf, out = str(base.parent / "shelf"), base.parent / "out"
    assert call(cli, ["adapter", "add", shelf, "first", first, "--base", str(base)]).exit_code == 0
    assert digest_file(tasks[0]) in call(cli, ["adapter", "show", second]).output
    alone = call(cli, ["adapter", "apply", str(base), second, "--out", str(out)])
    assert isinstance(alone.exception, ConfigError) and "--library" in alone.exception.remedy
    assert not out.exists()
    made = call(cli, ["adapter", "apply", str(base), second, "--out", str(out), "--library", shelf])
    assert made.exit_code == 0, made.output
    expected = apply(load_gan(base), resolve(read_adapter(tasks[1]), [read_adapter(tasks[0])], "it"))
    assert equal(copies(load_gan(out).generator_ema), copies(expected.generator_ema))


def test_what_does_not_fit_is_refused(tasks: tuple[Path, Path], base: Path, tmp_path: Path) -> None:
    first, second = tasks
    with pytest.raises(CheckpointError, match="not built on the others"):
        read_earlier(recipe(**settings_of(earlier=[str(second)])))
    other = tmp_path / "other.safetensors"
    write_adapter(replace(read_adapter(first), method="lora"), other)
    with pytest.raises(CheckpointError, match="of method lora"):
        read_earlier(recipe(**settings_of(earlier=[str(other)])))
    torn = dict(read_adapter(second).tensors)
    torn[NAME + EARLIER] = torch.ones(99)
    with pytest.raises(CheckpointError, match=r"it: the factors of .* do not fit"):
        resolve(replace(read_adapter(second), tensors=torn), [read_adapter(first)], "it")
    with pytest.raises(ConfigError, match=r"compress\.earlier names 1 .*compress\.enabled=false"):
        check_settings(recipe(**settings_of(enabled=False, earlier=["x"])))


def test_shares_that_leave_everything_whole_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"compress\.up_to_px=8 .*compress\.keep=\[1, 1") as error:
        method("gan_memory").apply(small("stylegan2"), recipe(**settings_of(keep=[1, 1, 0.95, 0.9, 0.8])))
    assert "keep=[0.8" in error.value.remedy


def test_a_run_keeps_a_compressed_adapter_that_makes_its_model_and_the_next_builds_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    workshop = Workshop(tmp_path).furnish()
    folder, first = workshop.models / "chosen", tmp_path / "first.safetensors"
    keys = {
        "finetune__method": "gan_memory", "finetune__controls": "[]",
        "finetune__gan_memory__compress__enabled": "true",
        "finetune__gan_memory__compress__keep": "[0.5, 0.5, 0.5, 0.5, 0.5]",
        "finetune__gan_memory__compress__components": 2,
        "finetune__gan_memory__compress__up_to_px": 8,
    }  # fmt: skip

    def model_of(file: Path, earlier: list[Path]) -> dict[str, torch.Tensor]:
        whole = resolve(read_adapter(file), [read_adapter(path) for path in earlier], "it")
        return dict(apply(load_gan(workshop.root / "near"), whole).generator_ema.state_dict())

    workshop.run(**quick(**keys))
    assert equal(model_of(folder / ADAPTER, []), dict(load_gan(folder).generator_ema.state_dict()))
    assert factorised(read_adapter(folder / ADAPTER))
    assert any("new components" in text for text in workshop.report()["warnings"])
    shutil.copyfile(folder / ADAPTER, first)
    workshop.run(**quick(**keys, finetune__gan_memory__compress__earlier=f"[{first}]"))
    assert read_adapter(folder / ADAPTER).after == (digest_file(first),)
    assert equal(model_of(folder / ADAPTER, [first]), dict(load_gan(folder).generator_ema.state_dict()))
    write_adapter(replace(read_adapter(first), base_sha256="0" * 64), first)
    with pytest.raises(CheckpointError, match=r"compress\.earlier names tasks of a base .* source near has"):
        workshop.run(**quick(**keys, finetune__gan_memory__compress__earlier=f"[{first}]"))


def test_its_term_is_no_penalty_of_other_methods() -> None:
    with pytest.raises(ConfigError, match=r"finetune\.penalties: 'low_rank'"):
        make_penalties(recipe(penalties=["low_rank"]))
    assert make_penalties(recipe(method="gan_memory")) == []
    assert [p.name for p in make_penalties(recipe(**settings_of()))] == ["low_rank"]
