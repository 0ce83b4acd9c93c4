from __future__ import annotations

import importlib.util
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from training.nets import tiny

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import build
from graftgan.gans.prior import Mixture
from graftgan.gans.spec import GanSpec
from graftgan.transfer import METHODS, method
from graftgan.transfer.storage import storage, table
from transfer.families import count

REPO = Path(__file__).parents[2]


def script() -> Any:
    """`benchmarks/storage.py`, which makes the tables of docs/methods.md."""
    spec = importlib.util.spec_from_file_location("storage_tables", REPO / "benchmarks" / "storage.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables = script()
DOCS = (REPO / "docs" / "methods.md").read_text(encoding="utf-8")
STYLEGAN2, BIGGAN, RESNET, ZOO = tables.NETWORKS
# 148 numbers, of class and latent, make gain and bias of both norms of a block, which has `wide` maps before
# its first norm and `narrow` before its second; the last norm has its own.
BIGGAN_MAPS = (1536, 1536, 768, 384, 192, 96)
BIGGAN_SCALES = 2 * 148 * sum(wide + narrow for wide, narrow in pairwise(BIGGAN_MAPS)) + 2 * 96
# Four convolutions a stage, all to its narrower maps, and the linear layer to the first maps.
RESNET_CHANNELS = 4 * (1024 + 1024 + 512 + 256 + 128 + 64) + 1024


def miner(z_dim: int) -> int:
    return 2 * (z_dim**2 + z_dim)


def heads(*maps: int) -> int:
    return sum(channels + 1 for channels in maps)


@pytest.mark.parametrize("title", tables.NETWORKS)
def test_the_tables_of_the_documentation_are_what_the_script_counts(title: str) -> None:
    text = f"**{title}**\n\n{table(tables.NETWORKS[title], tables.rows())}\n"
    assert text in DOCS


def test_every_method_has_a_row() -> None:
    assert {settings.method for _, settings in tables.rows()} == set(METHODS)


@pytest.mark.parametrize(
    ("title", "keys", "generator", "discriminator"),
    [
        # What moves beside or instead of the whole networks, whose counts are the published ones.
        (STYLEGAN2, {"method": "minegan"}, 24_767_458 + miner(512), 24_001_089),
        (BIGGAN, {"method": "minegan"}, 70_433_988 + miner(120), 87_982_370),
        (RESNET, {"method": "minegan", "minegan": {"joint_from": None}}, miner(256), 91_892_161),
        (
            RESNET,
            {"method": "minegan", "minegan": {"joint_from": None, "layers": 3, "width": 10}},
            (256 * 10 + 10) + (10 * 10 + 10) + (10 * 256 + 256),
            91_892_161,
        ),
        (BIGGAN, {"method": "bsa"}, BIGGAN_SCALES, 0),
        (RESNET, {"method": "bsa"}, 2 * RESNET_CHANNELS, 0),
        # Patches of 22 and 50 pixels are what b128 and b64 see, which make the maps of half their size; of a
        # BigGAN's D it is the block before attention; of the residual one the blocks of 11, 21 and 29 pixels.
        (STYLEGAN2, {"method": "cdc"}, 24_767_458, 24_001_089 + heads(256, 512)),
        (BIGGAN, {"method": "cdc"}, 70_433_988, 87_982_370 + heads(96)),
        (RESNET, {"method": "cdc"}, 96_101_828, 91_892_161 + heads(128, 128, 256)),
        (STYLEGAN2, {"method": "cdc", "cdc": {"patches": False}}, 24_767_458, 24_001_089),
    ],
    ids=str,
)
def test_counts_at_full_size_are_those_of_the_layers(
    title: str, keys: dict[str, Any], generator: int, discriminator: int
) -> None:
    found = storage(tables.NETWORKS[title], Finetune.model_validate(keys))
    assert (found.trainable_generator, found.trainable_discriminator) == (generator, discriminator)


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


def test_a_compressed_memory_is_its_components() -> None:
    resnet4 = GanSpec.from_dict(
        {"family": "resnet_gan", "resolution": 256, "variant": "resnet4", "embed_dim": 1, "stages": 7}
    )
    compress = {"enabled": True, "components": 64}
    settings = Finetune.model_validate({"method": "gan_memory", "gan_memory": {"compress": compress}})
    # Stages 0 to 3 have two convolutions each, from 1024, 1024, 1024 and 512 maps.
    sides = [(1024, 1024)] * 4 + [(512, 1024), (512, 512), (256, 512), (256, 256)]
    whole = storage(resnet4, Finetune(method="gan_memory"))
    dropped = 2 * sum(rows * columns - 64 * (rows + columns + 1) for rows, columns in sides)
    found = storage(resnet4, settings)
    assert whole.stored_bytes - found.stored_bytes == 4 * dropped
    assert found.trainable_generator == whole.trainable_generator == 10_549_248
    unknown = Finetune.model_validate({"method": "gan_memory", "gan_memory": {"compress": {"enabled": True}}})
    assert storage(resnet4, unknown).stored_bytes == whole.stored_bytes, "known after training only"


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


BIGGAN = {"family": "biggan", "resolution": 32, "z_dim": 20, "classes": 3, "g_ch": 4, "d_ch": 4,
          "shared_dim": 6}  # fmt: skip


def test_a_miner_is_stored_with_its_generator() -> None:
    whole = storage(tiny(), Finetune(method="full"))
    for joint, moves in ((0.5, whole.trainable_generator + 2 * (8 * 8 + 8)), (None, 2 * (8 * 8 + 8))):
        settings = Finetune.model_validate({"method": "minegan", "minegan": {"joint_from": joint}})
        found = storage(tiny(), settings)
        assert found.trainable_generator == moves
        assert found.stored_bytes == whole.stored_bytes + 4 * 2 * (8 * 8 + 8)


def test_a_mixture_is_stored_as_its_tensors_are() -> None:
    mixture = Mixture.of_moments(torch.full((5,), 0.2), torch.zeros(5, 8), torch.eye(8).expand(5, 8, 8))
    size = sum(tensor.numel() * tensor.element_size() for tensor in mixture.tensors().values())
    found = storage(tiny(), Finetune.model_validate({"prior": "gmm"}))
    assert found.stored_bytes - found.base_bytes == size
    three = Finetune.model_validate({"prior": "gmm", "mixture": {"components": 3}})
    assert storage(tiny(), three).stored_bytes - found.base_bytes == (size - 8) * 3 // 5 + 8


def test_one_class_is_one_row_and_bsa_has_no_discriminator() -> None:
    spec = GanSpec.from_dict(BIGGAN)
    one = Finetune.model_validate({"method": "class_embedding", "controls": []})
    found = storage(spec, one)
    assert (found.trainable_generator, found.trainable_discriminator, found.stored_bytes) == (6, 0, 24)
    keys = {"use": "repair", "classes": [0, 2]}
    two = Finetune.model_validate({"method": "class_embedding", "controls": [], "class_embedding": keys})
    assert storage(spec, two).stored_bytes == 48
    assert table(spec, [("one", one)]).endswith("| one | 6 | 0 | 24 bytes | 0.0% |")
    bsa = storage(spec, Finetune(method="bsa"))
    assert bsa.trainable_discriminator == 0 < bsa.trainable_generator
    assert bsa.stored_bytes == bsa.base_bytes
    with pytest.raises(ConfigError, match="no classes"):
        storage(tiny(), one)
