"""What the memory that a trainer without a game says it needs is held to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from training.nets import copies

from graftgan.training.memory import kept_bytes
from graftgan.transfer.direct import DirectTrainer


def kept_by_a_step(made: Callable[[], DirectTrainer], images: int) -> int:
    """Return the bytes that autograd keeps for the first loss of a new trainer with another batch."""
    trainer = made()
    trainer.settings = trainer.settings.model_copy(update={"batch": images})
    trainer.gan.generator.train()
    return kept_bytes((), trainer.loss)


def check_need(made: Callable[[], DirectTrainer], fewer: int = 6, more: int = 12) -> None:
    """Compare what is counted on few images with other batches; counting changes no bit of the training."""
    asked, other = made(), made()
    need = asked.need()
    assert need.fixed_bytes == 3 * sum(parameter.nbytes for parameter in asked.moving)
    assert need.batch == asked.settings.batch
    grown = kept_by_a_step(made, more) - kept_by_a_step(made, fewer)
    assert need.image_bytes == pytest.approx(grown / (more - fewer), rel=0.05)
    for trainer in (asked, other):
        trainer.step()
    ours, others = copies(asked.gan.generator), copies(other.gan.generator)
    assert all(torch.equal(ours[name], others[name]) for name in ours)
    assert asked.meter.state_dict().keys() == other.meter.state_dict().keys()
    assert asked.images_seen == other.images_seen == need.batch
