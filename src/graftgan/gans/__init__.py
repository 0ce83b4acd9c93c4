"""Network families: each builds a generator and a discriminator from a :class:`~graftgan.gans.spec.GanSpec`.

Importing this package costs no torch: families are named by module and imported when one is built.
"""

from __future__ import annotations

from graftgan.gans.spec import GanSpec

FAMILIES: dict[str, str] = {
    "stylegan2": "graftgan.gans.stylegan2",
}
"""Family name -> module that offers ``build_networks(spec) -> (Generator, Discriminator)``."""

__all__ = ["FAMILIES", "GanSpec"]
