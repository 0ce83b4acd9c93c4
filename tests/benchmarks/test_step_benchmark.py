"""`benchmarks/step.py` and `growth.py`: what they compare is equal, what they count is right."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scripts import loaded

step: Any = loaded("step")
variants: Any = loaded("step_variants")
equal: Any = loaded("step_equal")
peers: Any = loaded("step_peers")
measuring: Any = loaded("measuring")
growth: Any = loaded("growth")
plots: Any = loaded("growth_plot")
tables: Any = loaded("tables")
TINY = peers.Setting("tiny", 128, 8, batch=4, r1_interval=2, latent=8, mapping_layers=1)


def weights(ours: Any) -> dict[str, torch.Tensor]:
    gan = ours.trainer.gan
    return {**gan.generator.state_dict(), **{f"d.{n}": t for n, t in gan.discriminator.state_dict().items()}}


def after_steps(variant: Any, precision: str = "fp32", steps: int = 2) -> dict[str, torch.Tensor]:
    ours = step.Ours(TINY, precision, variant)
    for _ in range(steps):
        ours.step()
    return weights(ours)


@pytest.mark.parametrize("variant", step.TAKEN_BACK, ids=lambda variant: str(variant.name))
def test_what_is_taken_back_does_the_same_step(variant: Any) -> None:
    """But for new fakes, which are other random numbers, one step moves every weight alike."""
    default, other = after_steps(variants.DEFAULT, steps=1), after_steps(variant, steps=1)
    assert default.keys() == other.keys()
    near = [
        torch.allclose(default[name], other[name], atol=1e-5)
        for name in default
        if not (variant is step.FRESH and name.startswith("d."))
    ]
    # Where a gradient is next to nothing Adam's first step is as large all the same, its sign rounding's.
    assert np.mean(near) > 0.9


def test_both_forms_of_the_convolution_give_the_same_images() -> None:
    gan = variants.make_gan(TINY)
    z = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    for layer in gan.generator.modules():
        if isinstance(layer, variants.SynthesisLayer):
            nn.init.constant_(layer.noise_strength, 0.5)
            nn.init.normal_(layer.bias)
    with torch.no_grad():
        expected = gan.generator(z, None, 1.0, "const")
        with variants.swapped(variants.SynthesisLayer, "forward", variants.grouped):
            found = gan.generator(z, None, 1.0, "const")
    assert equal.largest_difference(found, expected) < 1e-5
    assert not torch.equal(found, expected), "the other form was not used"


def test_the_patches_are_gone_after_a_step() -> None:
    def now() -> tuple[Any, ...]:
        layers = variants.SynthesisLayer.forward, variants.BlurDown.forward
        return torch.channels_last, *layers, variants.of_trainer.make_adam

    before = now()
    for variant in step.TAKEN_BACK:
        with variant.patch():
            pass
    assert now() == before
    assert torch.channels_last is not torch.contiguous_format


def test_new_fakes_are_new() -> None:
    kept, fresh = after_steps(variants.DEFAULT), after_steps(step.FRESH)
    assert not torch.equal(kept["d.b4.out.weight"], fresh["d.b4.out.weight"])


def test_arithmetic_is_counted_through_second_derivatives() -> None:
    x, weight = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(5, 3, 3, 3)
    forward = 2 * 2 * 5 * 3 * 9 * 8 * 8
    with measuring.Flops() as counter:
        y = F.conv2d(x, weight, padding=1)
    assert counter.total == forward
    with measuring.Flops() as counter:
        (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        torch.autograd.grad(gradient.square().sum(), x)
    # Back once; then forward again and back again, and the weight's gradient, which PyTorch adds unasked.
    assert counter.total == 4 * forward
    with measuring.Flops() as counter:
        torch.randn(4, 6) @ torch.randn(6, 7)
    assert counter.total == 2 * 4 * 6 * 7


def test_traffic_is_what_operations_read_and_write_without_views() -> None:
    x, y = torch.ones(8), torch.ones(8)
    with measuring.Flops() as counter:
        x[:4].view(2, 2)
    assert counter.moved_bytes == 0
    with measuring.Flops() as counter:
        x + y
        x.add_(y)
    assert counter.moved_bytes == 2 * 3 * 8 * 4


def test_lazy_r1_has_its_share_of_a_steps_arithmetic() -> None:
    with_r1 = step.step_flops(TINY)
    without = step.step_flops(peers.Setting(**{**vars(TINY), "r1_interval": 0}))
    seldom = step.step_flops(peers.Setting(**{**vars(TINY), "r1_interval": 200}))
    assert without < seldom < 1.02 * without
    assert 1.2 * without < with_r1 < 3 * without


def test_getting_images_is_a_small_share_even_of_a_tiny_step() -> None:
    assert 0 < step.data_share(TINY, "fp32") < 0.2


def test_a_row_is_the_median_of_ratios_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([8, 9, 2.0, 1.0, 10.0, 30.0, 4.0, 2.0])
    monkeypatch.setattr(step, "timed", lambda who, steps: next(times))
    found, first = step.take_turns({"": object(), "other": object()}, steps=1, rounds=3)
    # Turns go to and fro, so that neither always follows the other.
    assert found == {"": [2.0, 30.0, 4.0], "other": [1.0, 10.0, 2.0]}
    assert first == {"": 9, "other": 8}


def test_peers_that_were_not_given_are_not_in_the_table() -> None:
    row = {
        "setting": "s", "precision": "fp32", "beside": "fp32", "who": "default", "step_s": 0.1,
        "first_step_s": 0.2, "images_per_s": 40.0, "times_default": 1.0, "share_of_peak": 0.5,
        "data_share": 0.004, "extra_mib": 100.0, "s_per_kimg": 3.125,
    }  # fmt: skip
    back = {**row, "who": "foreach Adam", "times_default": 1.25}
    options = argparse.Namespace(threads=2, rounds=5, device=measuring.CPU, origin={})
    text = step.page([row, back], options)
    assert "| s | fp32 | 100.0 ms | 40 | 3.12 | 50% | 0.40% | 100 MiB |" in text
    assert "| foreach Adam | 1.25 |" in text
    assert "This run had no peers" in text
    assert "first step" not in text
    compiled = {**row, "who": step.COMPILED, "first_step_s": 70.4}
    assert "took up to 70 s" in step.page([row, compiled], options)
    peer = {**row, "who": "rosinality", "times_default": 6.0, "times_fresh": 5.0, "extra_mib": 200.0}
    peer |= {"difference": None, "gradient_difference": None}
    text = step.page([row, back, peer], options)
    assert "| s | rosinality | fp32 | 6.00 | 5.00 | 0.50 |  |  |" in text
    assert "No peer" not in text


# Growth


def test_exponents_are_of_the_last_sizes() -> None:
    sizes = (1.0, 2.0, 4.0, 8.0)
    curve = growth.Curve("c", "n", sizes, (5.0, 4.0, 16.0, 64.0), tuple(s**2 for s in sizes))
    assert curve.exponent == pytest.approx(2)
    assert curve.work_exponent == pytest.approx(2)
    assert not curve.grows_faster
    cubic = growth.Curve("c", "n", sizes, tuple(s**3 for s in sizes), tuple(s**2 for s in sizes))
    assert cubic.grows_faster


def test_a_plan_counts_sources_once_and_pairs_for_every_target() -> None:
    plan = growth.Plan(source_s=2.0, target_s=1.0, pair_s=0.5, grid=(1, 1), grid_s=0.0)
    assert plan.predicted_s(3, 2) == 4 * 2.0 + 2 * (1.0 + 4 * 0.5)


def test_the_page_shows_the_plot_and_says_what_grows_faster_than_its_work() -> None:
    sizes = (1.0, 2.0, 4.0)
    linear, cubic = (tuple(s**power for s in sizes) for power in (1, 3))
    curves = [
        growth.Curve("even", "n", sizes, linear, linear),
        growth.Curve("bad", "n", sizes, cubic, linear),
    ]
    plan = growth.Plan(source_s=2.0, target_s=1.0, pair_s=0.5, grid=(1, 1), grid_s=4.0)
    text = growth.page(curves, plan, argparse.Namespace(threads=1), samples=10)
    assert f"]({growth.PLOT.relative_to(tables.ROOT / 'docs')})" in text, "the table stands in a page of docs"
    (even, bad) = [line for line in text.splitlines() if line.startswith(("| even", "| bad"))]
    assert "faster than the work" in bad and "faster" not in even
    assert "| 50 sources by 10 targets, planned | 6.1 min |" in text


def test_work_of_the_frechet_distance_is_that_of_the_shorter_side() -> None:
    assert growth.frechet_work(10, 1000) < growth.frechet_work(1000, 1000) / 50


def test_the_plot_is_an_svg_with_a_panel_a_curve() -> None:
    sizes = (32.0, 64.0, 128.0)
    curves = [
        growth.Curve(f"time & {n}", "side, px", sizes, (0.01, 0.04, 0.16), (1.0, 4.0, 16.0)) for n in range(4)
    ]
    root = ElementTree.fromstring(plots.svg(curves))
    space = "{http://www.w3.org/2000/svg}"
    panels = root.findall(f"{space}g")
    assert len(panels) == 4
    for panel in panels:
        assert len(panel.findall(f"{space}circle")) == 3
        time, work = (line.get("points") for line in panel.findall(f"{space}polyline"))
        assert time == work, "equal growth lies on one line"
        lows = [float(circle.get("cy", "nan")) for circle in panel.findall(f"{space}circle")]
        assert lows == sorted(lows, reverse=True)


# Tables in documents


def test_tables_stand_between_their_comments(tmp_path: Path) -> None:
    (tmp_path / "one.md").write_text("# Title\n\n| a |\n| - |\n| 1 |\n")
    text = "x\n<!-- results: one -->\nold\n<!-- end -->\ny\n<!-- results: two -->\nold\n<!-- end -->\n"
    filled = tables.filled(text, tmp_path)
    first, second = filled.split("y\n")
    assert first == "x\n<!-- results: one -->\n\n| a |\n| - |\n| 1 |\n\n<!-- end -->\n"
    assert second == "<!-- results: two -->\n<!-- end -->\n", "no results, nothing shown"
    assert tables.filled(filled, tmp_path) == filled


def test_documents_show_what_the_results_hold() -> None:
    found = tables.documents(tables.ROOT)
    asking = ["README.md", "classes.md", "methods.md", "performance.md", "studies.md"]
    assert [file.name for file in found] == asking
    for file in found:
        text = file.read_text(encoding="utf-8")
        assert tables.filled(text, tables.ROOT / "benchmarks" / "results") == text, "run benchmarks/tables.py"


# Tables of the older benchmarks


def test_serving_tells_what_a_load_did() -> None:
    serving = loaded("serving")
    load = serving.Load(
        seconds=[0.001 * n for n in range(1, 101)],
        memory_mb={0: 200.0, 25: 208.0, 50: 209.0, 75: 209.5, 100: 210.04},
    )
    load.statuses.update({200: 100, 400: 11})
    text = serving.table(load.facts())
    assert "| latency of 100 good requests | median 50.5 ms, p95 95" in text
    assert "100 x 200, 11 x 400; 0 of them with another status" in text
    assert "200 MB, 210 MB" in text


def test_prepare_tells_rates() -> None:
    prepare = loaded("prepare")
    text = prepare.table([prepare.row("decoding alone", prepare.Cost(1000, 2.0, 3.0), "more")], "JPEG files")
    assert text.startswith("JPEG files\n")
    assert text.endswith("| decoding alone | 2.00 s | 500 | 3.00 ms | more |\n")


def test_prepare_sets_the_images_beyond_a_few_beside_decoding() -> None:
    prepare = loaded("prepare")
    cost = prepare.Cost
    costs = {
        prepare.ALONE: cost(1000, 1.0, 2.0), prepare.INSIDE: cost(100, 0.3, 0.25),
        prepare.SOME: cost(200, 5.0, 6.0), prepare.WHOLE: cost(1000, 7.4, 8.4),
        prepare.AGAIN: cost(1000, 0.37, 0.3), prepare.DISK: cost(1000, 0.1, 0.1),
    }  # fmt: skip
    more = {row["what"]: row["more"] for row in prepare.rows_of(costs)}
    assert prepare.headline("1,000 files", costs).startswith(
        "1,000 files. From end to end `prepare` takes 7.40 x decoding alone by the clock, 4.20 x"
    )
    assert more["a decoding process of `prepare`"].startswith("80% of")
    assert more["`prepare`, the images beyond"].startswith("3.00 x decoding alone by the clock, 1.50 x")
    assert more["`prepare`, folder unchanged"] == "5.0% of the first run"


def test_prepare_takes_the_median_of_its_turns() -> None:
    prepare = loaded("prepare")
    turns = [prepare.Cost(10, wall_s, 2 * wall_s) for wall_s in (3.0, 1.0, 2.0)]
    assert prepare.median(turns) == prepare.Cost(10, 2.0, 4.0)


def test_startup_sets_every_program_beside_the_empty_ones() -> None:
    startup = loaded("startup")
    medians = dict.fromkeys(startup.PROGRAMS, 0.06) | {"python -c pass": 0.02, "graftgan --help": 0.09}
    assert "| `graftgan --help` | 90 ms | 4.50 | 1.50 |" in startup.table(medians)
