"""Every method with every prior, penalties and family: it goes, or two keys are named.

What goes is told here apart from the code: by the table of families in docs/methods.md and three rules.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import torch
from training.nets import recipe

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, build
from graftgan.gans.spec import FAMILIES, GanSpec
from graftgan.stages.prior import check_prior
from graftgan.transfer import METHODS, check_family, method
from graftgan.transfer.combinations import check_settings
from graftgan.transfer.penalties import PENALTIES, make_penalties
from transfer.families import OTHERS, SIZES, trainer

DOCS = Path(__file__).parents[2] / "docs" / "methods.md"
PRIORS = ("normal", "gmm", "gmm_to_normal")
SUBSETS = [names for n in range(len(PENALTIES) + 1) for names in itertools.combinations(PENALTIES, n)]
WITHOUT_A_GAME = {"bsa", "class_embedding"}
BRINGS = {"ewc": {"ewc"}, "l2_sp": {"l2_sp"}, "cdc": {"cdc"}}
ADAPTED = [family for family in (*SIZES, *OTHERS) if family in FAMILIES]


def documented() -> dict[str, set[str]]:
    """Method -> families that the documentation's table says yes to."""
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("| method | stylegan2 |"))
    families = [cell.strip() for cell in lines[head].split("|")[2:-1]]
    found: dict[str, set[str]] = {}
    for line in itertools.takewhile(lambda text: text.startswith("|"), lines[head + 2 :]):
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        yes = {family for family, cell in zip(families, cells[1:], strict=True) if cell == "yes"}
        found |= dict.fromkeys(re.findall(r"`(\w+)`", cells[0]), yes)
    return found


TABLE = documented()


def settings_of(name: str, prior: str, penalties: tuple[str, ...]) -> Finetune:
    own = {"freeze_g": {"freeze_g_blocks": 1}, "lora": {"adapter_rank": 1}}.get(name, {})
    term = {"bsd_k": 2} if "bsd" in penalties else {}
    changes = {"batch": 4, "evaluate_every_kimg": 0.25} | own | term
    return recipe(method=name, prior=prior, penalties=penalties, controls=[], **changes)


def goes(name: str, prior: str, penalties: tuple[str, ...]) -> bool:
    """Whether settings go together, whatever the source."""
    if name in WITHOUT_A_GAME:
        return prior == "normal" and not penalties
    if name == "minegan" and prior != "normal":
        return False
    return not BRINGS.get(name, set()) & set(penalties)


def keys_in(text: str) -> set[str]:
    """The settings, and the family, that a message names."""
    return set(re.findall(r"finetune\.(?:method|prior|penalties)|family", text))


def refusal(settings: Finetune, gan: Gan | None = None) -> ConfigError | None:
    """What is said to settings, and to them with a source; nothing else may be raised."""
    try:
        check_settings(settings)
        check_prior(settings, training_images=10)
        if gan is not None:
            check_family(settings.method, gan.spec.family, "it")
            method(settings.method).apply(gan, settings)
            for penalty in make_penalties(settings):
                penalty.start(gan, settings)
    except ConfigError as error:
        return error
    return None


def weightless(family: str) -> Gan:
    """A network of a family without any values."""
    sizes = {**SIZES, **OTHERS}[family]
    with torch.device("meta"):
        return build(GanSpec.from_dict({"family": family, "resolution": 32, **sizes}))


def test_the_documentation_has_every_method_and_family() -> None:
    assert set(TABLE) == set(METHODS)
    assert set().union(*TABLE.values()) == set(ADAPTED)
    for name, families in TABLE.items():
        known = METHODS[name].families
        assert families == (set(ADAPTED) if known is None else set(known)), name


@pytest.mark.parametrize("name", METHODS)
def test_settings_go_together_or_two_keys_are_named(name: str) -> None:
    for prior, penalties in itertools.product(PRIORS, SUBSETS):
        error = refusal(settings_of(name, prior, penalties))
        assert (error is None) == goes(name, prior, penalties), (name, prior, penalties, error)
        if error is not None:
            assert len(keys_in(error.message)) >= 2 and error.remedy, error.message


@pytest.mark.parametrize("family", ADAPTED)
@pytest.mark.parametrize("name", METHODS)
def test_a_source_goes_with_them_or_the_method_and_the_family_are_named(name: str, family: str) -> None:
    beside = tuple(one for one in PENALTIES if goes(name, "normal", (one,)))
    for penalties in {(), beside}:
        settings = settings_of(name, "normal", penalties)
        error = refusal(settings, weightless(family))
        classless = name == "class_embedding" and not SIZES.get(family, OTHERS.get(family, {})).get("classes")
        assert (error is None) == (family in TABLE[name] and not classless), (penalties, error)
        if error is not None:
            assert "finetune.method" in error.message and error.remedy, error.message
            assert "family" in error.message or "classes" in error.message


@pytest.mark.nightly
@pytest.mark.parametrize("family", ADAPTED)
@pytest.mark.parametrize("name", [name for name in METHODS if name not in WITHOUT_A_GAME])
def test_what_goes_trains_a_step_with_every_penalty_at_once(name: str, family: str) -> None:
    if family not in TABLE[name]:
        pytest.skip("refused")
    penalties = tuple(one for one in PENALTIES if one not in BRINGS.get(name, set()))
    given = settings_of(name, "normal", penalties).model_dump(exclude_defaults=True)
    run = trainer(family, **{**given, "ewc_samples": 1, "l2_sp_on_d": True})
    run.add_penalties(make_penalties(run.settings))
    run.step()
    assert run.finite() and {f"penalty_{one}" for one in PENALTIES} & run.meter.take().keys()
