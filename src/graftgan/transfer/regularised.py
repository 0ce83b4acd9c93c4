"""Methods that move every tensor and differ from full fine-tuning by a term in G's loss alone.

Each is `finetune.method=full` with that name in `finetune.penalties`; its weight is the penalty's.
"""

from __future__ import annotations

from graftgan.transfer.base import Method, every_parameter


def _full_with(penalty: str, text: str) -> Method:
    return Method(
        name=penalty,
        help=text,
        trainable_generator=lambda gan, settings: every_parameter(gan.generator),
        trainable_discriminator=lambda gan, settings: every_parameter(gan.discriminator),
        penalties=(penalty,),
    )


EWC = _full_with("ewc", "As full, with the penalty ewc: weights that the source minds stay (Li et al. 2020).")
L2_SP = _full_with(
    "l2_sp", "As full, with the penalty l2_sp: weights stay near the source's (Li et al. 2018)."
)
