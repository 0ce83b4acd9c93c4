"""A GAN as the rest of the package sees it: three networks and a spec; built by family, sampled by seed."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graftgan.device import send
from graftgan.errors import ConfigError
from graftgan.gans.prior import Prior
from graftgan.gans.spec import GanSpec, family_module
from graftgan.world import dealt, normal, own, sharding, shards

NoiseMode = Literal["random", "const", "none"]


class Generator(nn.Module, ABC):
    """Latents to images. Every family's generator is one of these.

    Attributes:
        spec: Sizes that it was built from.
        prior: The law that its latents come from, None for N(0, I); it belongs to the weights.
    """

    spec: GanSpec
    prior: Prior | None = None

    @abstractmethod
    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        truncation_psi: float = 1.0,
        noise_mode: NoiseMode = "random",
    ) -> Tensor:
        """Map ``z`` [N, z_dim] and class ids [N] to float32 images [N, channels, R, R] around [-1, 1]."""

    def freeze_statistics(self, frozen: bool = True) -> None:
        """Keep stored batch statistics as they are while training; most families have none."""


class StyledGenerator(Generator):
    """A generator in two parts, latents to styles and styles to images, so that styles can be mixed."""

    mapping: nn.Module
    synthesis: nn.Module

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        truncation_psi: float = 1.0,
        noise_mode: NoiseMode = "random",
    ) -> Tensor:
        """Map ``z`` [N, z_dim] (and class ids [N]) to float32 images [N, channels, R, R]."""
        images: Tensor = self.synthesis(self.mapping(z, labels, truncation_psi), noise_mode)
        return images

    def mixed_styles(self, z: Tensor, labels: Tensor | None = None, mixing_prob: float = 0.9) -> Tensor:
        """Map ``z`` to ``ws``, with probability ``mixing_prob`` taking later layers from fresh latents.

        The crossover is drawn once a call, uniformly among the layers (Karras et al. 2019, section 3.1).

        Returns:
            ``ws`` [N, num_ws, w_dim] for ``synthesis``.
        """
        ws: Tensor = self.mapping(z, labels)
        if float(torch.rand((), device="cpu")) >= mixing_prob:
            return ws
        cutoff = int(torch.randint(1, ws.shape[1], (), device="cpu"))
        fresh = self._others(z)
        other = self.mapping(fresh, labels, update_w_avg=False)
        return torch.cat([ws[:, :cutoff], other[:, cutoff:]], dim=1)

    def _others(self, z: Tensor) -> Tensor:
        if self.prior is not None and self.prior.position < 1.0:
            return send(own(self.prior.draw(len(z) * shards())).to(z.dtype), z.device)
        return normal(z.shape, None, z.device).to(z)


class Discriminator(nn.Module, ABC):
    """Images to one logit each. Every family's discriminator is one of these."""

    spec: GanSpec

    @abstractmethod
    def features(self, img: Tensor, mbstd_split: int = 1) -> Tensor:
        """Return the float32 input [N, F] of the last linear layer."""

    def spectral_features(self, img: Tensor) -> Tensor:
        """Return features [N, F], one row from each image alone, whose spectrum tells their variety."""
        with sharding(on=False):
            return self.features(img, mbstd_split=len(img))

    @abstractmethod
    def forward(self, img: Tensor, labels: Tensor | None = None, mbstd_split: int = 1) -> Tensor:
        """Map images [N, channels, R, R] and class ids [N] to float32 logits [N, 1].

        ``mbstd_split`` is the number of equal parts, one behind the other, whose batch statistics are
        kept apart (2 for a batch ``cat(fake, real)``).
        """


@dataclass
class Gan:
    """A spec with its networks.

    Attributes:
        spec: Sizes that the networks were built from.
        generator: The generator under training.
        discriminator: The discriminator under training.
        generator_ema: Moving average of the generator in evaluation mode, without gradients; sample from it.
        fresh: What no checkpoint gave and is as initialised: names of whole networks, and of single tensors
            with their network's name in front, as `generator.synthesis.b64.conv0.weight`.
    """

    spec: GanSpec
    generator: Generator
    discriminator: Discriminator
    generator_ema: Generator
    fresh: tuple[str, ...] = ()

    def fresh_in(self, network: str) -> set[str]:
        """Return the names in a network of the single tensors that are as initialised."""
        prefix = f"{network}."
        return {name.removeprefix(prefix) for name in self.fresh if name.startswith(prefix)}

    @property
    def prior(self) -> Prior | None:
        """The law of the averaged generator's latents; setting it sets both generators'."""
        return self.generator_ema.prior

    @prior.setter
    def prior(self, prior: Prior | None) -> None:
        self.generator.prior = self.generator_ema.prior = prior

    def to(self, device: torch.device | str) -> Gan:
        """Move all three networks to ``device`` and return self."""
        for net in (self.generator, self.discriminator, self.generator_ema):
            net.to(device)
        return self


def build(spec: GanSpec, seed: int | None = None) -> Gan:
    """Build freshly initialised networks.

    Args:
        spec: Family and sizes.
        seed: Seed of the initial weights; the global random state is then left as it was. None draws from it.

    Returns:
        The networks in float32 on torch's default device; ``generator_ema`` equals ``generator``.

    Raises:
        ConfigError: The family is unknown.
    """
    family = family_module(spec.family)
    with nullcontext() if seed is None else torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        generator, discriminator = family.build_networks(spec)
    ema = copy.deepcopy(generator).eval().requires_grad_(False)
    return Gan(spec, generator, discriminator, ema)


def to_uint8(img: Tensor) -> NDArray[np.uint8]:
    """Convert images [N, C, H, W] in [-1, 1] to uint8 [N, H, W, C]; values outside are clipped."""
    scaled = (img.detach().float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    array: NDArray[np.uint8] = np.ascontiguousarray(scaled.permute(0, 2, 3, 1).cpu().numpy())
    return array


def draw_latents(
    spec: GanSpec, n: int, rng: torch.Generator, prior: Prior | None = None
) -> tuple[Tensor, Tensor | None]:
    """Draw ``z`` [n, z_dim] and, for a conditional spec, uniform class ids [n] from a CPU generator.

    ``z`` is from N(0, I), or from a generator's own ``prior`` where it has one.

    Images are drawn one after the other, so a longer or differently cut series begins with the same images.
    """
    z, labels = [], []
    for _ in range(n):
        z.append(torch.randn(spec.z_dim, generator=rng) if prior is None else prior.draw_one(rng))
        if spec.classes:
            labels.append(torch.randint(spec.classes, (), generator=rng))
    stacked = torch.stack(z) if z else torch.empty(0, spec.z_dim)
    return stacked, torch.stack(labels) if labels else None


def sample(
    generator: Generator,
    n: int,
    seed: int,
    truncation_psi: float = 1.0,
    labels: int | Sequence[int] | None = None,
    batch: int = 64,
    share: tuple[int, int] = (0, 1),
) -> NDArray[np.uint8]:
    """Sample ``n`` images that depend on the seed and their place only, from the generator's own prior.

    Image i is the same for every ``n`` and, to float rounding, for every ``batch``: latents come from one
    stream and the noise is the network's constant one.

    Args:
        generator: Any family's generator; it is put in evaluation mode while sampling.
        n: Number of images.
        seed: Seed of the latents (and of the classes, when ``labels`` is None).
        truncation_psi: 1 keeps the learnt distribution, less pulls w towards its mean, 0 is the mean image.
        labels: One class id for all images, or one each. None draws them uniformly if there are classes.
        batch: Images computed at a time.
        share: Number of a share, and of all shares. Whole batches are dealt out to them in turns, and those
            of this share alone are computed; see :func:`graftgan.world.dealt`.

    Returns:
        uint8 [n, R, R, channels], or the rows of the share.

    Raises:
        ConfigError: Labels are given to an unconditional generator, are too few or out of range.
    """
    spec, count = generator.spec, len(dealt(n, batch, share))
    images = np.empty((count, spec.resolution, spec.resolution, spec.channels), np.uint8)
    done = 0
    mine = range(share[0], math.ceil(n / batch), share[1])
    for img in _sampled(generator, n, seed, truncation_psi, labels, batch, mine):
        images[done : done + len(img)] = img
        done += len(img)
    return images


def sample_blocks(
    generator: Generator,
    n: int,
    seed: int,
    truncation_psi: float = 1.0,
    labels: int | Sequence[int] | None = None,
    batch: int = 64,
    blocks: Collection[int] = (),
) -> dict[int, NDArray[np.uint8]]:
    """Return some of the batches that :func:`sample` computes for the same arguments, of the same bits.

    Args:
        generator: As for `sample`.
        n: Number of images of the whole series.
        seed: As for `sample`.
        truncation_psi: As for `sample`.
        labels: As for `sample`.
        batch: Images computed at a time.
        blocks: Numbers of the batches wanted, of which the others are not computed.

    Returns:
        uint8 [batch, R, R, channels] by number of the batch; the last may be shorter.

    Raises:
        ConfigError: As for `sample`.
    """
    mine = sorted(set(blocks))
    made = _sampled(generator, n, seed, truncation_psi, labels, batch, mine)
    return dict(zip(mine, made, strict=True))


@torch.no_grad()
def _sampled(
    generator: Generator,
    n: int,
    seed: int,
    truncation_psi: float,
    labels: int | Sequence[int] | None,
    batch: int,
    blocks: Sequence[int],
) -> Iterator[NDArray[np.uint8]]:
    """Compute the batches with these numbers, which ascend; the latents of those before are drawn alone."""
    wanted = _checked_labels(generator.spec, n, labels)
    rng = torch.Generator().manual_seed(seed)
    device = next(generator.parameters()).device
    was_training = generator.training
    generator.eval()
    try:
        for block in range(max(blocks, default=-1) + 1):
            start, stop = block * batch, min((block + 1) * batch, n)
            z, drawn = draw_latents(generator.spec, stop - start, rng, generator.prior)
            if block not in blocks:
                continue
            ids = drawn if wanted is None else wanted[start:stop]
            img = generator(z.to(device), None if ids is None else ids.to(device), truncation_psi, "const")
            yield to_uint8(img)
    finally:
        generator.train(was_training)


def _checked_labels(spec: GanSpec, n: int, labels: int | Sequence[int] | None) -> Tensor | None:
    if labels is None:
        return None
    if not spec.classes:
        raise ConfigError("labels were given, but this network has no classes", "Leave the labels out.")
    ids = [labels] * n if isinstance(labels, int) else list(labels)
    if len(ids) != n:
        raise ConfigError(f"{len(ids)} labels were given for {n} images", "Give one each, or one for all.")
    wrong = sorted({i for i in ids if not 0 <= i < spec.classes})
    if wrong:
        raise ConfigError(f"class id {wrong[0]} is out of range", f"Use 0 to {spec.classes - 1}.")
    return torch.tensor(ids, dtype=torch.long)


def parameter_count(module: nn.Module) -> int:
    """Return the number of parameters (buffers are not counted)."""
    return sum(p.numel() for p in module.parameters())


def autocast(device: torch.device | str, dtype: torch.dtype) -> Any:
    """Return an autocast context for ``dtype``, or a context that does nothing for float32."""
    if dtype is torch.float32:
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype)
