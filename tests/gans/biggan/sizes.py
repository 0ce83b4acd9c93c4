"""Specs small enough for tests of every kind."""

from __future__ import annotations

from graftgan.gans.biggan import BigGANSpec

TINY = BigGANSpec(resolution=32, z_dim=8, classes=3, g_ch=2, d_ch=2, g_attn=(16,), d_attn=(16,), shared_dim=4)
TABLES = BigGANSpec(
    resolution=32, z_dim=5, classes=3, g_ch=2, d_ch=2, g_attn=(), d_attn=(), shared_dim=0, hier=False
)
FLAT = BigGANSpec(
    resolution=32, z_dim=5, classes=3, g_ch=2, d_ch=2, g_attn=(8,), d_attn=(), shared_dim=4, hier=False
)
PLAIN = BigGANSpec(resolution=32, z_dim=8, g_ch=2, d_ch=2, g_attn=(), d_attn=())
GROWN = BigGANSpec(
    resolution=64, z_dim=10, classes=2, g_ch=1, d_ch=1, g_attn=(16,), d_attn=(4,), shared_dim=3
)
"""64 px: widths that differ from block to block, and a last block of D that widens without halving."""
VARIANTS = {"tiny": TINY, "tables": TABLES, "flat": FLAT, "plain": PLAIN, "grown": GROWN}
