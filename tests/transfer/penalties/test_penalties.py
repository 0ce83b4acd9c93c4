from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stages.test_finetune import Workshop, quick
from training.nets import EVERYTHING, equal, everything, make, recipe

from graftgan.errors import ConfigError
from graftgan.stages.finetune import COLUMNS, curves_csv
from graftgan.transfer.penalties import PENALTIES, make_penalties
from transfer.penalties.runs import through_disk, trained

ALL = tuple(PENALTIES)
QUICK: dict[str, Any] = {"bsd_k": 2, "ewc_samples": 2, "l2_sp_on_d": True}


def weightless(name: str) -> dict[str, Any]:
    section, _, key = PENALTIES[name].weight_key.rpartition(".")
    return {section: {key: 0.0}} if section else {key: 0.0}


def test_the_published_ones_are_there_and_explained() -> None:
    assert list(PENALTIES) == ["bsd", "l2_sp", "ewc", "cdc"]
    assert all("20" in kind.help for kind in PENALTIES.values())


@pytest.mark.parametrize("name", ALL)
def test_weight_0_is_plain_fine_tuning_bit_for_bit(name: str) -> None:
    plain = make(**EVERYTHING)
    plain.seed_noise()
    for _ in range(3):
        plain.step()
    neutral = trained(3, (name,), **weightless(name), **QUICK, **EVERYTHING)
    assert equal(everything(plain), everything(neutral))
    assert plain.meter.take() == neutral.meter.take()


@pytest.mark.parametrize("name", ALL)
def test_a_weight_changes_the_run_and_shows_its_term(name: str) -> None:
    plain, run = trained(2), trained(2, (name,), **QUICK)
    assert not equal(everything(plain), everything(run))
    shown = run.meter.take()
    assert f"penalty_{name}" in shown
    assert shown.keys() - plain.meter.take().keys() == {key for key in shown if key.startswith("penalty_")}


def test_the_loss_that_is_shown_is_the_adversarial_one() -> None:
    plain, run = trained(1), trained(1, ("bsd",), bsd_k=2, bsd_weight=7.0)
    assert plain.meter.take()["loss_g"] == run.meter.take()["loss_g"]


def test_penalties_add_up_to_one_gradient() -> None:
    def norm(*names: str) -> torch.Tensor:
        trainer = trained(1, names, **QUICK, bsd_weight=3.0)
        trainer._phase_g(None)
        return torch.cat([p.grad.flatten() for p in trainer.gan.generator.parameters() if p.grad is not None])

    plain = trained(1, ())
    assert len(norm(*ALL)) == sum(p.numel() for p in plain.gan.generator.parameters())
    torch.testing.assert_close(norm("bsd", "ewc"), norm("ewc", "bsd"), rtol=1e-4, atol=1e-6)


def test_steps_leave_the_resting_network_alone() -> None:
    trainer = trained(1, ALL, **QUICK)
    before = everything(trainer)
    fakes = trainer._phase_g(None)
    after = everything(trainer)
    assert all(torch.equal(before[n], after[n]) for n in before if n.startswith("d."))
    reals, _ = trainer._reals()
    trainer._phase_d(reals, fakes, None)
    last = everything(trainer)
    assert all(torch.equal(after[n], last[n]) for n in after if n.startswith("g."))
    assert not equal(after, last)


@pytest.mark.parametrize("done", [0, 2])
def test_a_run_goes_on_exactly(done: int, tmp_path: Path) -> None:
    settings = {**QUICK, **EVERYTHING, "ewc_weight": 100.0, "l2_sp_weight": 0.1}
    whole = trained(4, ALL, **settings)
    first = trained(done, ALL, **settings)
    state = through_disk(first, tmp_path)
    second = trained(1, ALL, **settings)
    second.load_state_dict(state)
    for _ in range(4 - done):
        second.step()
    assert equal(everything(whole), everything(second))
    assert whole.meter.take() == second.meter.take()
    assert [p.warnings() for p in whole.penalties] == [p.warnings() for p in second.penalties]


def test_a_run_without_penalties_keeps_the_old_state() -> None:
    assert "penalties" not in trained(0).state_dict()
    assert set(trained(0, ALL, **QUICK).state_dict()["penalties"]) == set(ALL)


def test_curves_have_columns_for_the_terms_that_there_are() -> None:
    row = {"images_seen": 8.0, "loss_g": 0.5}
    assert curves_csv([row]).splitlines()[0] == ",".join(COLUMNS)
    with_terms = curves_csv([row, {**row, "penalty_ewc": 0.25, "penalty_bsd": 2.0, "other": 1.0}])
    lines = with_terms.splitlines()
    assert lines[0] == ",".join([*COLUMNS, "penalty_bsd", "penalty_ewc"])
    assert lines[1].endswith(",,")
    assert lines[2].endswith(",2,0.25")


def test_unknown_and_repeated_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"finetune\.penalties: 'bss'") as error:
        make_penalties(recipe(penalties=["bss"]))
    assert all(name in error.value.remedy for name in ALL)
    with pytest.raises(ConfigError, match="twice"):
        make_penalties(recipe(penalties=["ewc", "ewc"]))


def test_the_default_is_none() -> None:
    assert recipe().penalties == ()
    assert make_penalties(recipe()) == []


def test_a_stage_shows_them_in_its_curves_and_leaves_its_control_from_scratch_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    workshop = Workshop(tmp_path).furnish()
    result, _ = workshop.run(
        **quick(
            finetune__penalties="[bsd, l2_sp, ewc]", finetune__bsd_k=2, finetune__ewc_samples=2,
            finetune__controls="[scratch]",
        )
    )  # fmt: skip
    headers = {
        run: (workshop.models / run / "curves.csv").read_text().splitlines()[0].split(",")
        for run in ("chosen", "scratch")
    }
    assert headers["scratch"] == list(COLUMNS)
    assert headers["chosen"] == [
        *COLUMNS, "penalty_bsd", "penalty_bsd_d", "penalty_bsd_floor", "penalty_bsd_norm", "penalty_ewc",
        "penalty_l2_sp",
    ]  # fmt: skip
    assert workshop.report("chosen")["penalties"] == ["bsd", "l2_sp", "ewc"]
    assert "penalties" not in workshop.report("scratch")
    assert all("bsd" in text for text in result.warnings)


def test_a_stage_refuses_bad_settings_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    workshop = Workshop(tmp_path).furnish()
    workshop.fails(ConfigError, "finetune.bsd_k is 9, but finetune.batch is 8",
                   finetune__penalties="[bsd]", finetune__bsd_k=9)  # fmt: skip
    workshop.fails(ConfigError, "'bss' is not a penalty", finetune__penalties="[bss]")
