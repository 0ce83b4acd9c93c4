"""Specs small enough for tests of every kind."""

from __future__ import annotations

from graftgan.gans.stylegan2 import StyleGAN2Spec

TINY = StyleGAN2Spec(
    resolution=32, z_dim=16, w_dim=12, mapping_layers=2, channel_base=128, channel_max=8, label_layers=2
)
DEMO = StyleGAN2Spec(resolution=32, z_dim=128, w_dim=128, mapping_layers=2, channel_base=1024, channel_max=64)
