"""What each method moves and stores, in networks of published sizes and in the zoo's own.

Prints the Markdown tables of docs/methods.md; networks are counted, never built.

    python benchmarks/storage.py
"""

from __future__ import annotations

from pathlib import Path

import click

from graftgan.checkpoints.store import SPEC, read_spec
from graftgan.config import Finetune
from graftgan.gans.spec import GanSpec
from graftgan.transfer.storage import table

ROOT = Path(__file__).resolve().parent.parent
NETWORKS: dict[str, GanSpec] = {
    "StyleGAN2, 256 px": GanSpec.from_dict(
        {"family": "stylegan2", "resolution": 256, "channel_base": 16384, "mapping_layers": 8}
    ),
    "BigGAN, 128 px, 1000 classes": GanSpec.from_dict(
        {"family": "biggan", "resolution": 128, "classes": 1000}
    ),
    "Residual GAN, 128 px": GanSpec.from_dict({"family": "resnet_gan", "resolution": 128, "embed_dim": 1}),
    "The zoo's StyleGAN2, 32 px": read_spec(ROOT / "zoo" / "toon-head" / SPEC),
}
METHODS = (
    "full", "freeze_d", "freeze_g", "scale_shift", "filter_transfer", "adafm", "gan_memory", "lora", "cdc",
    "minegan", "bsa", "ewc", "l2_sp",
)  # fmt: skip


def rows() -> list[tuple[str, Finetune]]:
    """Return the rows of every table: each method at its defaults, then what stores something else."""
    plain = [(f"`{name}`", Finetune(method=name)) for name in METHODS]
    small = [
        (
            f"`{name}`, `head: small`",
            Finetune.model_validate({"method": name, "filter_transfer": {"head": "small"}}),
        )
        for name in ("filter_transfer", "adafm")
    ]
    given: dict[str, dict[str, object]] = {
        "`gan_memory`, `compress`, 64 components": {
            "method": "gan_memory",
            "gan_memory": {"compress": {"enabled": True, "components": 64}},
        },
        "`minegan`, `joint_from: null`": {"method": "minegan", "minegan": {"joint_from": None}},
        "`class_embedding`, one class": {"method": "class_embedding", "controls": []},
        "`full`, `prior: gmm`": {"method": "full", "prior": "gmm"},
    }
    return plain + small + [(label, Finetune.model_validate(keys)) for label, keys in given.items()]


def main() -> None:
    """Print one table a network."""
    for title, spec in NETWORKS.items():
        click.echo(f"**{title}**\n\n{table(spec, rows())}\n")


if __name__ == "__main__":
    main()
