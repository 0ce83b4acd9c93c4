"""Counts of the sheet, and the closed form against what is really stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graftgan.bank.accounting import added, costs, full_size
from graftgan.bank.layers import free_widths, layer_shapes
from graftgan.bank.manifest import Layer
from graftgan.gans.translation import TranslatorSpec, build_translator
from tests.bank.banks import grown

RESNET = TranslatorSpec(kind="resnet_9")
UNET = TranslatorSpec(kind="unet_256", norm="batch")
A_AT_A_QUARTER = {
    "resnet_9": [964_608, 1_205_760, 1_446_912, 1_688_064, 1_929_216],
    "unet_256": [1_898_496, 2_373_120, 2_847_744, 3_322_368, 3_796_992],
}


def layers_of(spec: TranslatorSpec, share: float) -> list[Layer]:
    with torch.device("meta"):
        shapes = layer_shapes(build_translator(spec))
    widths = free_widths(shapes, share)
    return [Layer(**vars(shape), d=shape.d, n_u=widths[shape.name]) for shape in shapes]


@pytest.mark.parametrize(
    ("spec", "full", "free"), [(RESNET, 11_372_928, 2_850_288), (UNET, 54_404_096, 13_605_632)]
)
def test_exact_counts_at_a_quarter(spec: TranslatorSpec, full: int, free: int) -> None:
    """T-A5 of the method sheet: its exact counts."""
    layers = layers_of(spec, 0.25)
    assert full_size(layers) == full
    assert added(layers, 1) == (full, 0)
    assert [added(layers, t) for t in range(2, 7)] == [(free, mix) for mix in A_AT_A_QUARTER[spec.kind]]


@pytest.mark.parametrize(
    ("spec", "share", "percents", "total"),
    [
        (RESNET, 0.125, [22.5, 23.7, 24.9, 26.2, 27.4], 2.247),
        (RESNET, 0.25, [33.5, 35.7, 37.8, 39.9, 42.0], 2.889),
        (RESNET, 0.5, [55.7, 58.5, 61.4, 64.2, 67.0], 4.068),
        (UNET, 0.125, [16.6, 17.1, 17.6, 18.1, 18.6], 1.880),
        (UNET, 0.25, [28.5, 29.4, 30.2, 31.1, 32.0], 2.512),
        (UNET, 0.5, [52.3, 53.5, 54.7, 55.8, 57.0], 3.733),
    ],
)
def test_table_of_shares(spec: TranslatorSpec, share: float, percents: list[float], total: float) -> None:
    """T-A5 of the method sheet: its table."""
    layers = layers_of(spec, share)
    full = full_size(layers)
    sizes = [sum(added(layers, t)) / full for t in range(1, 7)]
    assert [round(100 * size, 1) for size in sizes[1:]] == percents
    assert round(sum(sizes), 3) == total


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_extremes_are_pure_mixtures_and_whole_models(share: float) -> None:
    layers = layers_of(RESNET, share)
    free, mix = added(layers, 3)
    if share:
        assert (free, mix) == (full_size(layers), 0)
    else:
        assert free == layers[-1].d * layers[-1].co
        assert mix == sum(layer.co**2 for layer in layers[:-1])


def test_a_resnet_9_reaches_a_whole_model_a_task_near_the_33rd() -> None:
    layers = layers_of(RESNET, 0.25)
    full = full_size(layers)
    assert sum(added(layers, 32)) < full * 1.01
    assert sum(added(layers, 34)) > full * 0.99


def test_costs_count_what_is_stored(tmp_path: Path) -> None:
    bank = grown(tmp_path / "bank", ["random", "random", "warm:t1"])
    found = costs(bank)
    assert [cost.index for cost in found] == [1, 2, 3]
    stored = 0
    for task, cost in zip(bank.tasks, found, strict=True):
        rows = {layer: bank.rows(layer, task.index).numel() for layer in bank.layers}
        mixed = sum(t.numel() for name, t in bank.task_tensors(task).items() if name.startswith("A/"))
        assert cost.mix == mixed
        assert sum(rows.values()) == sum(earlier.free for earlier in found[: task.index])
        stored += cost.added
        assert cost.total == stored
        assert cost.cumulative_ratio == stored / found[0].added
    assert found[0].ratio == 1.0
