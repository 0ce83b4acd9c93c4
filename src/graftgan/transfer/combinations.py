"""What of `finetune` cannot go together, whatever the source: asked before anything is loaded."""

from __future__ import annotations

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.transfer import method
from graftgan.transfer.penalties import make_penalties


def check_settings(settings: Finetune) -> None:
    """Refuse settings of the method, of its penalties and of the game that exclude each other.

    Raises:
        ConfigError: Naming both keys.
    """
    if settings.r1_on_fakes and not settings.r1_gamma:
        raise ConfigError(
            "finetune.r1_on_fakes=true with finetune.r1_gamma=0: there is no penalty to put on fakes",
            "set finetune.r1_gamma above 0, or finetune.r1_on_fakes=false",
        )
    if (refuse := method(settings.method).check) is not None:
        refuse(settings)
    make_penalties(settings)
