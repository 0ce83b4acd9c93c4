"""What only a generator with styles can do."""

from __future__ import annotations

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, StyledGenerator


def check_styled(gan: Gan, settings: Finetune) -> None:
    """Refuse what mixes or measures styles where G has none.

    Raises:
        ConfigError: Naming both keys.
    """
    for key in ("style_mixing", "path_length_weight"):
        if getattr(settings, key) and not isinstance(gan.generator, StyledGenerator):
            raise ConfigError(
                f"finetune.{key}={getattr(settings, key):g}, but the source that rank.choose brought is of "
                f"family={gan.spec.family}, whose generator has no styles",
                f"set finetune.{key}=0, or choose a StyleGAN in rank.choose",
            )
