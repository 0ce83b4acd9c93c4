"""Do turns that D is shown get into the pictures that G makes? Not at p = 0.8; at p = 1 they may."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from graftgan.training.ada import AdaPipe
from graftgan.training.losses import discriminator_loss, generator_loss, r1_penalty

SIDE, BATCH, STEPS = 4, 64, 500
UPRIGHT = torch.linspace(0.9, -0.9, SIDE)[:, None].expand(SIDE, SIDE)


def pictures(count: int, rng: torch.Generator) -> Tensor:
    """Pictures that are bright above and dark below, with noise, [count, 1, SIDE, SIDE]."""
    noise = torch.randn(count, 1, SIDE, SIDE, generator=rng)
    return (0.7 * UPRIGHT + 0.1 * noise).clamp(-1, 1)


class Painter(nn.Module):
    """A linear G, whose pictures lean every way to begin with."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(SIDE, SIDE * SIDE)

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.layer(z)).view(-1, 1, SIDE, SIDE)


def share_upright(p: float) -> float:
    """Train with quarter turns at a fixed p, and return how many generated pictures are upright."""
    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(1)
    g = Painter()
    d = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    pipe = AdaPipe(transforms=("rotate90",))
    adam_g, adam_d = (torch.optim.Adam(net.parameters(), lr=0.01, betas=(0.0, 0.99)) for net in (g, d))

    def seen(images: Tensor) -> Tensor:
        return d(pipe(images, p, rng))

    for _ in range(STEPS):
        z = torch.randn(BATCH, SIDE, generator=rng)
        real = pictures(BATCH, rng).requires_grad_()
        real_logits = seen(real)
        loss = discriminator_loss(real_logits, seen(g(z).detach())).mean()
        adam_d.zero_grad()
        (loss + 0.05 * r1_penalty(real_logits, real).mean()).backward()
        adam_d.step()
        adam_g.zero_grad()
        generator_loss(seen(g(z))).mean().backward()
        adam_g.step()
    with torch.no_grad():
        made = g(torch.randn(1000, SIDE, generator=rng))[:, 0]
    alike = torch.stack([(made * torch.rot90(UPRIGHT, turns)).sum((1, 2)) for turns in range(4)])
    return float((alike.argmax(0) == 0).float().mean())


@pytest.mark.parametrize("p", [0.0, 0.8])
def test_turns_do_not_leak_into_pictures(p: float) -> None:
    assert share_upright(p) > 0.95


def test_with_all_turns_alike_nothing_tells_upright_from_the_rest() -> None:
    """The other side of it, without which the test above would show nothing."""
    assert share_upright(1.0) < 0.75
