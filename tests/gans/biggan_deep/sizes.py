"""Specs small enough for tests of every kind."""

from __future__ import annotations

import dataclasses

from graftgan.gans.biggan_deep import BigGANDeepSpec

LAYERS = ((True, 16, 8), (False, 8, 8), (True, 8, 4), (True, 4, 2), (False, 2, 1))
TINY = BigGANDeepSpec(
    resolution=32,
    z_dim=6,
    classes=3,
    channel_width=4,
    class_embed_dim=5,
    layers=LAYERS,
    attention_layer_position=2,
    n_stats=51,
    d_ch=2,
    d_attn=(16,),
)
PLAIN = dataclasses.replace(TINY, classes=0, d_attn=())
