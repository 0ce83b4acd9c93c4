"""Full fine-tuning (Wang et al., TransferGAN, ECCV 2018): every tensor moves."""

from __future__ import annotations

from graftgan.transfer.base import Method, every_parameter

METHOD = Method(
    name="full",
    help="Every tensor of G and D moves (TransferGAN, Wang et al. 2018).",
    trainable_generator=lambda gan, settings: every_parameter(gan.generator),
    trainable_discriminator=lambda gan, settings: every_parameter(gan.discriminator),
)
