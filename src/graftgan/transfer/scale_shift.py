"""Scale and shift (Noguchi & Harada, ICCV 2019): G's filters stay; what scales and shifts their maps moves.

This is the method inside GAN training, with the whole of D: normalisation gains and biases, and in networks
whose gains depend on a style or a class the layers that make them. A StyleGAN has no other shift than the
biases of its convolutions, so these move as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan
from graftgan.transfer.base import Method, every_parameter

PATTERNS: Mapping[str, str] = {
    "stylegan2": r"synthesis\.b\d+\.\w+\.(affine\.(weight|bias)|bias)",
    "stylegan3": r"synthesis\.L\w+\.(affine\.(weight|bias)|bias)",
    "biggan": r"blocks\.\d+\.0\.bn[12]\.(gain|bias)\.weight|output_layer\.0\.(gain|bias)",
    "biggan_deep": r"generator\.layers\.\d+\.bn_\d\.(scale|offset)\.weight_orig|generator\.bn\.(weight|bias)",
}
"""Family -> what the names of G's scales and shifts match."""


def moving(gan: Gan, settings: Finetune) -> set[str]:
    """Return the names of the parameters of G that scale and shift feature maps.

    Raises:
        ConfigError: If the family has none.
    """
    family = gan.spec.family
    if family not in PATTERNS:
        raise ConfigError(
            f"finetune.method=scale_shift needs scales and shifts, which the source's family={family} lacks",
            "use finetune.method=adafm, which adds them, or set rank.sources to those of another family",
        )
    pattern = re.compile(PATTERNS[family])
    return {name for name in every_parameter(gan.generator) if pattern.fullmatch(name)}


METHOD = Method(
    name="scale_shift",
    families=tuple(PATTERNS),
    help="Only scales and shifts of G's feature maps move, and all of D (Noguchi & Harada 2019).",
    trainable_generator=moving,
    trainable_discriminator=lambda gan, settings: every_parameter(gan.discriminator),
    adapter=True,
)
