"""Specs small enough for tests of every kind."""

from __future__ import annotations

import dataclasses

from graftgan.gans.stylegan3 import StyleGAN3Spec

TINY = StyleGAN3Spec(resolution=32, z_dim=16, w_dim=12, channel_base=128, channel_max=8, label_layers=2)
TINY_R = dataclasses.replace(TINY, variant="r", channel_max=4)
SHORT = dataclasses.replace(TINY, num_layers=4)
