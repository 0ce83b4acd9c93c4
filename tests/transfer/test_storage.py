from __future__ import annotations

import pytest
from training.nets import tiny

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import build
from graftgan.gans.spec import GanSpec
from graftgan.transfer import method
from graftgan.transfer.storage import storage, table
from transfer.families import count


@pytest.mark.parametrize("name", ["full", "freeze_g", "scale_shift", "adafm", "lora", "gan_memory"])
def test_counts_are_those_of_real_networks(name: str) -> None:
    settings, gan = Finetune(method=name), build(tiny(), 0)
    whole = count(gan.generator)
    method(name).apply(gan, settings)
    found = storage(tiny(), settings)
    assert (found.trainable_generator, found.trainable_discriminator) == (
        count(gan.generator), count(gan.discriminator)
    )  # fmt: skip
    assert found.base_bytes == 4 * whole
    assert found.stored_bytes == 4 * (whole if name == "full" else count(gan.generator))
    assert found.share == found.stored_bytes / found.base_bytes


def test_the_published_shares() -> None:
    resnet4 = GanSpec.from_dict(
        {"family": "resnet_gan", "resolution": 256, "variant": "resnet4", "embed_dim": 1, "stages": 7}
    )
    memory = storage(resnet4, Finetune(method="gan_memory"))
    assert (memory.stored_bytes, memory.base_bytes) == (4 * 10_549_248, 4 * 52_161_732)
    assert memory.share == pytest.approx(0.202, abs=5e-4)
    resnet2 = GanSpec.from_dict({"family": "resnet_gan", "resolution": 128, "embed_dim": 1})
    small = Finetune.model_validate({"method": "adafm", "filter_transfer": {"head": "small"}})
    assert storage(resnet2, small).stored_bytes == pytest.approx(104e6, rel=0.01)
    assert storage(resnet2, small).base_bytes == pytest.approx(384e6, rel=0.01)


def test_the_table_has_a_row_each_and_dashes_where_a_method_is_not_for_the_network() -> None:
    spec = GanSpec.from_dict({"family": "biggan", "resolution": 32, "classes": 3, "g_ch": 4, "d_ch": 4})
    lines = table(spec, [(f"`{name}`", Finetune(method=name)) for name in ("full", "lora")]).split("\n")
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    found = storage(spec, Finetune(method="full"))
    cells = (
        f"{found.trainable_generator:,} | {found.trainable_discriminator:,} | {found.base_bytes / 1e6:.1f} MB"
    )
    assert lines[2] == f"| `full` | {cells} | 100.0% |"
    assert lines[3] == "| `lora` | – | – | – | – |"


def test_settings_that_cannot_go_together_are_refused() -> None:
    settings = Finetune.model_validate({"method": "adafm", "filter_transfer": {"head_z_dim": 4}})
    with pytest.raises(ConfigError, match="head_z_dim=4"):
        storage(tiny(), settings)
