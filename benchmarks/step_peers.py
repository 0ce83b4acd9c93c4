"""Training steps of public StyleGAN2 repositories on their reference operations.

Neither has a package of its own, but `draggan` carries the files of both: of NVlabs those of its later
repository, stylegan3, whose StyleGAN2 is that of stylegan2-ada-pytorch. Checkouts can be given instead. Both
run on a CPU as they are, but that rosinality's compiles CUDA when imported. What is called here is their
networks and losses; the loop around is as short as theirs.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measuring import CPU
from numpy.typing import NDArray
from torch import Tensor, nn

PACKAGE = "draggan==1.1.6"
IMAGES = 256
R1_GAMMA = 1.0
LR = 0.002
EMA_HALF_LIFE = 10_000
Gradients = dict[str, Tensor]


@dataclass(frozen=True)
class Setting:
    """Sizes of networks and batch.

    Attributes:
        name: For the tables.
        channel_base: Width at resolution r is `min(channel_base / r, channel_max)`.
        channel_max: Largest width.
        batch: Images a step.
        r1_interval: Steps between R1, 0 for none.
        latent: Length of z and w.
        mapping_layers: Of the mapping network.
        resolution: Image side in pixels.
    """

    name: str
    channel_base: int
    channel_max: int
    batch: int
    r1_interval: int = 16
    latent: int = 128
    mapping_layers: int = 2
    resolution: int = 32


def pictures(setting: Setting) -> NDArray[np.uint8]:
    """Return images to train on, uint8 [N, R, R, 3]."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (IMAGES, setting.resolution, setting.resolution, 3), dtype=np.uint8)


def install(folder: Path) -> tuple[Path, Path]:
    """Put the package into a folder and return where in it NVlabs's files are, and rosinality's.

    What it depends on would replace torch, and is not needed here.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*command, PACKAGE], check=True)
    return folder / "draggan" / "stylegan2", folder / "draggan" / "deprecated"


class Reals:
    """Gives out batches of one set of images, as floats."""

    def __init__(self, setting: Setting, device: torch.device = CPU) -> None:
        self.images = torch.from_numpy(pictures(setting)).permute(0, 3, 1, 2).contiguous().to(device)
        self.batch, self.at = setting.batch, 0

    def next(self) -> Tensor:
        """Return images [N, 3, R, R] in [-1, 1]."""
        place = self.images.device  # Rows of the host would make it wait, which the peers do not.
        rows = torch.arange(self.at, self.at + self.batch, device=place) % len(self.images)
        self.at += self.batch
        return self.images[rows].float() / 127.5 - 1


def average(into: nn.Module, network: nn.Module, batch: int) -> None:
    """Move averaged weights, tensor by tensor as both repositories do."""
    beta = 0.5 ** (batch / EMA_HALF_LIFE)
    with torch.no_grad():
        for mine, other in zip(into.parameters(), network.parameters(), strict=True):
            mine.copy_(other.lerp(mine, beta))
        for mine, other in zip(into.buffers(), network.buffers(), strict=True):
            mine.copy_(other)


def gradients(network: nn.Module, loss: Callable[[], Tensor]) -> Gradients:
    """Return the gradients of a loss, by the names of a network's parameters."""
    network.requires_grad_(True)
    names, parameters = zip(*network.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss(), parameters, materialize_grads=True), strict=True))


class Ada:
    """StyleGAN2 of NVlabs: its networks and its loss, phase by phase as its training loop goes.

    `path` is a checkout of stylegan2-ada-pytorch, or has `training`, `torch_utils`, `dnnlib` of stylegan3.
    """

    def __init__(self, setting: Setting, path: Path, device: torch.device = CPU) -> None:
        sys.path.insert(0, str(path))
        networks: Any = importlib.import_module("training.networks")
        losses: Any = importlib.import_module("training.loss")
        widths = {
            "channel_base": setting.channel_base, "channel_max": setting.channel_max, "num_fp16_res": 0,
            "conv_clamp": None,
        }  # fmt: skip
        self.generator = networks.Generator(
            z_dim=setting.latent, c_dim=0, w_dim=setting.latent, img_resolution=setting.resolution,
            img_channels=3, mapping_kwargs={"num_layers": setting.mapping_layers}, synthesis_kwargs=widths,
        ).train().requires_grad_(False).to(device)  # fmt: skip
        self.discriminator = (
            networks.Discriminator(c_dim=0, img_resolution=setting.resolution, img_channels=3, **widths)
            .train()
            .requires_grad_(False)
            .to(device)
        )
        self.average = copy.deepcopy(self.generator).eval()
        whole = "G" in inspect.signature(losses.StyleGAN2Loss).parameters
        g = self.generator
        self.loss = losses.StyleGAN2Loss(
            device=device, **({"G": g} if whole else {"G_mapping": g.mapping, "G_synthesis": g.synthesis}),
            D=self.discriminator, style_mixing_prob=0.0, r1_gamma=R1_GAMMA, pl_weight=0.0,
        )  # fmt: skip
        self.told = {"cur_nimg": 0} if whole else {"sync": True}
        self.setting, self.device, self.steps = setting, device, 0
        self.reals = Reals(setting, device)
        self.adam_g = torch.optim.Adam(self.generator.parameters(), lr=LR, betas=(0.0, 0.99), eps=1e-8)
        ratio = setting.r1_interval / (setting.r1_interval + 1)
        self.adam_d = torch.optim.Adam(
            self.discriminator.parameters(), lr=LR * ratio, betas=(0.0, 0.99**ratio), eps=1e-8
        )

    def step(self) -> None:
        """Do one step."""
        reals = self.reals.next()
        self._phase("Gmain", self.generator, self.adam_g, reals, 1)
        self._phase("Dmain", self.discriminator, self.adam_d, reals, 1)
        if self.steps % self.setting.r1_interval == 0:
            self._phase("Dreg", self.discriminator, self.adam_d, reals, self.setting.r1_interval)
        average(self.average, self.generator, self.setting.batch)
        self.steps += 1

    def _phase(self, name: str, network: nn.Module, adam: torch.optim.Adam, reals: Tensor, gain: int) -> None:
        none = self._none(self.setting.batch)
        z = torch.randn(self.setting.batch, self.setting.latent, device=self.device)
        adam.zero_grad(set_to_none=True)
        network.requires_grad_(True)
        self.loss.accumulate_gradients(
            phase=name, real_img=reals, real_c=none, gen_z=z, gen_c=none, gain=gain, **self.told
        )
        network.requires_grad_(False)
        for parameter in network.parameters():
            if parameter.grad is not None:
                torch.nan_to_num(parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad)
        adam.step()

    def take_weights(self, generator: nn.Module, discriminator: nn.Module) -> None:
        """Load weights of networks whose names and shapes are the public ones.

        Raises:
            SystemExit: The checkout has other names.
        """
        for mine, theirs in ((self.generator, generator), (self.discriminator, discriminator)):
            told = mine.load_state_dict(theirs.state_dict(), strict=False)
            left = [name for name in told.missing_keys if not name.endswith("resample_filter")]
            if left or told.unexpected_keys:
                raise SystemExit(f"the checkout has other tensors: {left + told.unexpected_keys}")

    @torch.no_grad()
    def images(self, z: Tensor) -> Tensor:
        """Return images of latents with the constant noise."""
        return self._draw(z)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Return what D says."""
        return self._judge(images)

    def of_generator(self, z: Tensor) -> Gradients:
        """Return the gradients of G's loss, images with the constant noise."""
        return self._resting(self.generator, lambda: F.softplus(-self._judge(self._draw(z))).mean())

    def of_discriminator(self, reals: Tensor, fakes: Tensor) -> Gradients:
        """Return the gradients of D's loss."""
        return self._resting(
            self.discriminator,
            lambda: F.softplus(-self._judge(reals)).mean() + F.softplus(self._judge(fakes)).mean(),
        )

    def of_r1(self, reals: Tensor) -> Gradients:
        """Return the gradients of its own R1 phase, which has gamma / 2 in it."""
        none, z = self._none(len(reals)), torch.zeros(len(reals), self.setting.latent, device=self.device)
        network = self.discriminator.requires_grad_(True)
        network.zero_grad(set_to_none=True)
        self.loss.accumulate_gradients(
            phase="Dreg", real_img=reals, real_c=none, gen_z=z, gen_c=none, gain=1, **self.told
        )
        found = {
            name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for name, p in network.named_parameters()
        }
        network.requires_grad_(False).zero_grad(set_to_none=True)
        return found

    def _resting(self, network: nn.Module, loss: Callable[[], Tensor]) -> Gradients:
        found = gradients(network, loss)
        network.requires_grad_(False)
        return found

    def _draw(self, z: Tensor) -> Tensor:
        return torch.as_tensor(self.generator(z, self._none(len(z)), noise_mode="const"))

    def _judge(self, images: Tensor) -> Tensor:
        return torch.as_tensor(self.discriminator(images, self._none(len(images))))

    def _none(self, count: int) -> Tensor:
        return torch.zeros(count, 0, device=self.device)


class Rosinality:
    """rosinality/stylegan2-pytorch: its networks, in the order of its training script, no penalties.

    `path` is a checkout, or holds it as the package `stylegan2`.
    """

    def __init__(self, setting: Setting, path: Path) -> None:
        import torch.utils.cpp_extension as extensions

        extensions.load = lambda *_, **__: None  # its CUDA kernels; on a CPU it has others
        sys.path.insert(0, str(path))
        model: Any = importlib.import_module("model" if (path / "model.py").is_file() else "stylegan2.model")
        self.setting, self.reals, self.device = setting, Reals(setting), CPU
        self.generator = model.Generator(setting.resolution, setting.latent, setting.mapping_layers)
        self.discriminator = model.Discriminator(setting.resolution)
        self.average = copy.deepcopy(self.generator).eval()
        self.adam_g = torch.optim.Adam(self.generator.parameters(), lr=LR, betas=(0.0, 0.99))
        self.adam_d = torch.optim.Adam(self.discriminator.parameters(), lr=LR, betas=(0.0, 0.99))

    def step(self) -> None:
        """Do one step."""
        self.generator.requires_grad_(False)
        self.discriminator.requires_grad_(True)
        fake, real = self.discriminator(self._fakes()), self.discriminator(self.reals.next())
        self._move(self.adam_d, F.softplus(-real).mean() + F.softplus(fake).mean())
        self.generator.requires_grad_(True)
        self.discriminator.requires_grad_(False)
        self._move(self.adam_g, F.softplus(-self.discriminator(self._fakes())).mean())
        average(self.average, self.generator, self.setting.batch)

    def _fakes(self) -> Tensor:
        fakes, _ = self.generator([torch.randn(self.setting.batch, self.setting.latent)])
        return torch.as_tensor(fakes)

    def _move(self, adam: torch.optim.Adam, loss: Tensor) -> None:
        adam.zero_grad()
        torch.autograd.backward(loss)
        adam.step()
