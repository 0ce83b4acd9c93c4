"""Sizes of a residual GAN and the four layouts that public checkpoints have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graftgan.errors import ConfigError
from graftgan.gans.spec import GanSpec, listed


@dataclass(frozen=True)
class Layout:
    """What tells the layouts apart.

    Attributes:
        blocks: Residual blocks a stage.
        kernel: Side of the kernel between image and features.
        plain: Whether the stage at full size keeps the width, so that doubling begins one stage below it.
        unit_embedding: Whether the class embedding is scaled to unit length.
        outer: Whether the size also changes between the image and its nearest stage, not between stages only.
        stem: Width at the smallest size, in multiples of the widest stage above.
        indexed: Whether blocks are named ``resnet.{2 * stage}``, else ``resnet_{stage}_{block}``.
    """

    blocks: int = 1
    kernel: int = 3
    plain: bool = False
    unit_embedding: bool = False
    outer: bool = False
    stem: int = 1
    indexed: bool = False

    def block_name(self, stage: int, block: int) -> str:
        """Return the name of a residual block; stages count in the order of computation."""
        return f"resnet.{2 * stage}" if self.indexed else f"resnet_{stage}_{block}"


LAYOUTS: dict[str, Layout] = {
    "resnet": Layout(plain=True, unit_embedding=True, indexed=True),
    "resnet2": Layout(blocks=2, unit_embedding=True),
    "resnet3": Layout(kernel=7, outer=True, stem=2),
    "resnet4": Layout(kernel=7, plain=True),
}
"""Variant -> layout; the names are those of the public code's modules."""


@dataclass(frozen=True)
class ResnetGanSpec(GanSpec):
    """Sizes of a residual GAN; the defaults are those of the published ImageNet network at 128 px.

    The widths at the ends of the stages are, from the image inwards, ``min(nfilter * 2^k, nfilter_max)`` with
    k = 0, 1, 2, ... (0, 0, 1, 2, ... in the layouts `resnet` and `resnet4`).

    Attributes:
        variant: Layout: `resnet2` (two blocks a stage), `resnet3`, `resnet4` or the generic `resnet`.
        embed_dim: Length of the class embedding that the generator takes beside z; an unconditional network
            embeds its only label, 0.
        nfilter: Feature maps at the image.
        nfilter_max: Upper limit of the generator's feature maps; `resnet3` has twice that at the smallest
            size.
        nfilter_max_d: The same for the discriminator.
        stages: Sizes that have residual blocks. Published: 6 in `resnet2` and `resnet3`, 7 in `resnet4`,
            ``log2(resolution) - 1`` in `resnet`.
        head_px: The generator's blocks below this size are a small head
            (:mod:`graftgan.gans.resnet_gan.head`), which takes no classes; 0 for a network without one, whose
            :meth:`to_dict` leaves both keys out.
        head_grad_gain: Factor on the gradients that reach the head. A real number.
    """

    family: ClassVar[str] = "resnet_gan"
    POSITIVE: ClassVar[tuple[str, ...]] = ("embed_dim", "nfilter")

    resolution: int = 128
    z_dim: int = 256
    variant: str = "resnet2"
    embed_dim: int = 256
    nfilter: int = 64
    nfilter_max: int = 1024
    nfilter_max_d: int = 1024
    stages: int = 6
    head_px: int = 0
    head_grad_gain: float = 0.01

    def __post_init__(self) -> None:
        if self.variant not in LAYOUTS:
            raise ConfigError(f"variant is {self.variant!r}", f"Use one of {listed(LAYOUTS)}.")
        super().__post_init__()
        least = self.nfilter * self.layout.stem
        for name in ("nfilter_max", "nfilter_max_d"):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}", f"Use {least} or more.")
        if self.stages < 2 or self.base < 1:
            most = self.resolution.bit_length() - self.layout.outer
            raise ConfigError(
                f"stages is {self.stages} at {self.resolution} px",
                f"Use 2 to {most} in the layout {self.variant}.",
            )

        if self.head_px:
            self._check_head()

    def _check_head(self) -> None:
        sides = [self.base << stage for stage in range(1, self.stages)]
        if self.head_px not in sides:
            raise ConfigError(f"head_px is {self.head_px}", f"Use one of {listed(sides)}, or 0.")
        if self.classes:
            raise ConfigError(
                f"head_px is {self.head_px} with {self.classes} classes", "Use 0 for either of them."
            )
        gain = self.head_grad_gain
        if not isinstance(gain, int | float) or isinstance(gain, bool) or not 0 < gain < float("inf"):
            raise ConfigError(f"head_grad_gain is {gain!r}", "Use a number above 0.")

    def to_dict(self) -> dict[str, Any]:
        """Return family and fields as plain values; those of the head only where there is one."""
        values = super().to_dict()
        return values if self.head_px else {k: v for k, v in values.items() if not k.startswith("head_")}

    @property
    def first_stage(self) -> int:
        """First stage of the generator that has residual blocks, those before being a small head."""
        return (self.head_px // self.base).bit_length() - 1 if self.head_px else 0

    @property
    def layout(self) -> Layout:
        """The layout that the variant names."""
        return LAYOUTS[self.variant]

    @property
    def labels(self) -> int:
        """Rows of the embedding and outputs of the discriminator: the classes, or one without them."""
        return max(self.classes, 1)

    @property
    def base(self) -> int:
        """Smallest feature map's side in pixels."""
        return self.resolution >> (self.stages - 1 + self.layout.outer)

    def widths(self, limit: int) -> tuple[int, ...]:
        """Return the feature maps at the ends of the stages, from the image inwards, ``stages + 1`` numbers.

        Args:
            limit: `nfilter_max` or `nfilter_max_d`.
        """
        powers = [max(k - self.layout.plain, 0) for k in range(self.stages + 1)]
        widths = [min(self.nfilter * 2**power, limit) for power in powers]
        if self.layout.stem > 1:
            widths[-1] = limit * self.layout.stem
        return tuple(widths)
