"""Network families: each builds a generator and a discriminator from its kind of spec.

Importing this package costs no torch: families are named by module and imported when one is built or read.
"""

from __future__ import annotations

from graftgan.gans.spec import FAMILIES, GanSpec

__all__ = ["FAMILIES", "GanSpec"]
