from __future__ import annotations

from pathlib import Path

import pytest
from stages.test_finetune import Workshop
from training.nets import recipe

from graftgan.checkpoints.store import WEIGHTS, save_gan
from graftgan.contract import digest_file
from graftgan.errors import ConfigError
from graftgan.transfer import METHODS, check_family
from transfer.families import SIZES, small


def settle(workshop: Workshop, family: str) -> None:
    """Put a source of another family in the place of the chosen one."""
    folder, catalogue = workshop.root / "near", workshop.root / "catalogue.yaml"
    old = digest_file(folder / WEIGHTS)
    save_gan(small(family), folder)
    catalogue.write_text(catalogue.read_text().replace(old, digest_file(folder / WEIGHTS)))


def applies(name: str, family: str) -> bool:
    """Whether the method itself takes the networks, with the settings a user would begin with."""
    try:
        METHODS[name].apply(small(family), recipe(method=name, freeze_g_blocks=1, adapter_rank=1))
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("family", SIZES)
@pytest.mark.parametrize("name", METHODS)
def test_what_is_refused_early_is_what_would_be_refused_late(name: str, family: str) -> None:
    known = METHODS[name].families
    suits, works = known is None or family in known, applies(name, family)
    # Of a family that suits, a network may lack classes still.
    assert suits == works or (suits and name == "class_embedding")


def test_the_message_names_method_source_and_family_and_what_would_work() -> None:
    with pytest.raises(ConfigError, match=r"finetune\.method=lora .* source flowers: .* is biggan") as error:
        check_family("lora", "biggan", "flowers")
    assert "family stylegan2, stylegan3" in error.value.message
    assert "full" in error.value.remedy and "scale_shift" in error.value.remedy
    assert "freeze_d" in error.value.remedy and "gan_memory" not in error.value.remedy
    check_family("full", "dcgan", "flowers")
    check_family("lora", "stylegan3", "flowers")


def test_the_stage_refuses_before_it_computes_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    workshop = Workshop(tmp_path).furnish()
    settle(workshop, "resnet_gan")

    def never(*given: object) -> None:
        raise AssertionError("features were computed")

    monkeypatch.setattr("graftgan.stages.finetune.make_judge", never)
    error = workshop.fails(ConfigError, r"finetune\.method=lora .* source near", finetune__method="lora")
    assert "full" in error.remedy
