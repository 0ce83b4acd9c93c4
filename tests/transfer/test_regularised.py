from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stages.test_finetune import Workshop, quick
from training.nets import equal, everything, recipe

from graftgan.errors import ConfigError
from graftgan.transfer import METHODS, full
from graftgan.transfer.penalties import PENALTIES, make_penalties
from transfer.families import SIZES, small
from transfer.penalties.runs import trained

NAMES = ("ewc", "l2_sp", "cdc")
NEUTRAL: dict[str, dict[str, Any]] = {
    "ewc": {"ewc_weight": 0.0}, "l2_sp": {"l2_sp_weight": 0.0},
    "cdc": {"cdc": {"weight": 0.0, "patches": False}},
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_weight_0_is_full_fine_tuning_bit_for_bit(name: str) -> None:
    plain = trained(2)
    neutral = trained(2, method=name, **NEUTRAL[name])
    assert equal(everything(plain), everything(neutral))
    assert neutral.penalties == ()


@pytest.mark.parametrize("name", NAMES)
def test_the_method_brings_its_penalty_first_and_others_come_beside_it(name: str) -> None:
    found = make_penalties(recipe(method=name, penalties=["bsd"], bsd_k=2))
    assert [p.name for p in found] == [name, "bsd"]
    assert set(METHODS[name].penalties) <= set(PENALTIES)


@pytest.mark.parametrize("name", NAMES)
def test_naming_the_penalty_twice_is_refused_by_both_keys(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"finetune\.method={name} .* finetune\.penalties") as error:
        make_penalties(recipe(method=name, penalties=[name]))
    assert "finetune.penalties" in error.value.remedy


@pytest.mark.parametrize("family", SIZES)
def test_what_moves_is_what_moves_in_full(family: str) -> None:
    gan, settings = small(family), recipe()
    for name in NAMES:
        for choose in ("trainable_generator", "trainable_discriminator"):
            of_method = getattr(METHODS[name], choose)(gan, settings)
            assert of_method == getattr(full.METHOD, choose)(gan, settings)


def test_other_methods_bring_none() -> None:
    bringing = {name: method.penalties for name, method in METHODS.items() if method.penalties}
    assert bringing.keys() == {*NAMES, "gan_memory"} and bringing["gan_memory"] == ("low_rank",)


def test_a_stage_shows_the_term_and_names_the_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    workshop = Workshop(tmp_path).furnish()
    workshop.run(**quick(finetune__method="cdc", finetune__cdc="{layers: 2}"))
    report = workshop.report()
    assert (report["method"], report["penalties"]) == ("cdc", ["cdc"])
    header = (workshop.models / "chosen" / "curves.csv").read_text().splitlines()[0]
    assert "penalty_cdc" in header.split(",")
