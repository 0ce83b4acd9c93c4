"""Sizes of a StyleGAN3, and the sampling rates and bandwidths that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from graftgan.errors import ConfigError
from graftgan.gans.spec import GanSpec
from graftgan.gans.stylegan2.spec import StyleGAN2Spec

VARIANTS = ("t", "r")
FILTER_SIZE = 6
ACTIVATION_UPSAMPLING = 2


@dataclass(frozen=True)
class Signal:
    """Feature maps as samples of a continuous signal over the unit square (section 3.2 of the paper).

    Attributes:
        cutoff: Cutoff of the low-pass filter that made the signal, in cycles a picture width.
        half_width: Half of that filter's transition band.
        rate: Samples a picture width, a power of two.
        size: Side of the feature maps, margins included.
        channels: Number of feature maps.
    """

    cutoff: float
    half_width: float
    rate: int
    size: int
    channels: int


@dataclass(frozen=True)
class LayerShape:
    """What one synthesis layer does to the sampling of a signal.

    Attributes:
        name: Name in the synthesis network, ``L{index}_{size}_{channels}``.
        source: The signal that comes in.
        target: The signal that goes out.
        to_rgb: Whether this is the last layer, which has no filters and no nonlinearity.
        kernel: Side of the convolution kernel.
        radial: Whether the downsampling filter is radially symmetric.
    """

    name: str
    source: Signal
    target: Signal
    to_rgb: bool
    kernel: int
    radial: bool

    @property
    def inner_rate(self) -> int:
        """Sampling rate at which the nonlinearity is applied."""
        return max(self.source.rate, self.target.rate) * (1 if self.to_rgb else ACTIVATION_UPSAMPLING)

    @property
    def up(self) -> int:
        """Upsampling factor before the nonlinearity."""
        return self.inner_rate // self.source.rate

    @property
    def down(self) -> int:
        """Downsampling factor after the nonlinearity."""
        return self.inner_rate // self.target.rate

    @property
    def up_taps(self) -> int:
        """Taps of the upsampling filter; 1 is no filter."""
        return 1 if self.to_rgb else FILTER_SIZE * self.up

    @property
    def down_taps(self) -> int:
        """Taps of the downsampling filter; 1 is no filter."""
        return 1 if self.to_rgb else FILTER_SIZE * self.down

    @property
    def border(self) -> int:
        """Samples that upsampling adds on every side of the full response; negative numbers cut off.

        The convolution widens its input by ``kernel - 1`` and the downsampling filter needs
        ``(size - 1) * down + taps`` samples, so the border is half of what lies between.
        """
        full = (self.source.size + self.kernel - 2) * self.up + self.up_taps
        needed = (self.target.size - 1) * self.down + self.down_taps
        return (needed - full) // 2


@dataclass(frozen=True)
class StyleGAN3Spec(GanSpec):
    """Sizes of a StyleGAN3; the defaults are those of config T (Karras et al. 2021).

    Attributes:
        w_dim: Length of the intermediate latent vector w.
        mapping_layers: Fully connected layers from z to w.
        channel_base: Feature maps of the generator at a cutoff are ``channel_base / (2 * cutoff)`` and of the
            discriminator at a resolution ``channel_base // resolution``, both up to ``channel_max``. Variant
            R doubles both numbers in the generator, to make up for its 1x1 kernels.
        channel_max: Upper limit of the feature maps.
        variant: ``t`` for equivariance to translation (3x3 kernels, separable filters), ``r`` for translation
            and rotation (1x1 kernels, radially symmetric downsampling). Text.
        num_layers: Synthesis layers before the RGB layer.
        num_critical: Of these, the last so many are critically sampled.
        first_cutoff: Cutoff of the first layer, in cycles a picture width. A real number.
        first_stopband: Its stopband frequency. A real number.
        last_stopband_rel: Stopband of the last layers relative to their cutoff. A real number.
        margin_size: Samples beyond the picture's edge on every side, at every layer but the last two.
        mbstd_group: Images over which the discriminator's minibatch standard deviation is taken.
        label_layers: Fully connected layers of its class embedding (used if ``classes > 0``).
    """

    family: ClassVar[str] = "stylegan3"
    POSITIVE: ClassVar[tuple[str, ...]] = (
        "w_dim", "mapping_layers", "channel_max", "num_layers", "num_critical", "margin_size", "mbstd_group",
        "label_layers",
    )  # fmt: skip
    REAL: ClassVar[tuple[str, ...]] = ("first_cutoff", "first_stopband", "last_stopband_rel")

    w_dim: int = 512
    mapping_layers: int = 2
    channel_base: int = 32768
    channel_max: int = 512
    variant: str = "t"
    num_layers: int = 14
    num_critical: int = 2
    first_cutoff: float = 2.0
    first_stopband: float = 2**2.1
    last_stopband_rel: float = 2**0.3
    margin_size: int = 10
    mbstd_group: int = 4
    label_layers: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in VARIANTS:
            raise ConfigError(f"variant is {self.variant!r}", "Use 't' or 'r'.")
        for name in self.REAL:
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
                raise ConfigError(f"{name} is {value!r}", "Use a number.")
        if self.channel_base < self.resolution:
            raise ConfigError(
                f"channel_base is {self.channel_base}, which leaves no feature map at {self.resolution} px",
                f"Set it to {self.resolution} or more.",
            )
        self._check_bands()

    def _check_bands(self) -> None:
        if self.num_layers <= self.num_critical:
            raise ConfigError(
                f"num_critical is {self.num_critical} of {self.num_layers} layers",
                "Leave one other.",
            )
        if not 0 < self.first_cutoff < min(self.first_stopband, self.resolution / 2):
            raise ConfigError(
                f"first_cutoff is {self.first_cutoff}",
                "Use more than 0, less than first_stopband and less than half the resolution.",
            )
        if self.last_stopband_rel <= 1:
            raise ConfigError(f"last_stopband_rel is {self.last_stopband_rel}", "Use more than 1.")

    @property
    def num_ws(self) -> int:
        """Number of w vectors that one image takes: the input, every layer, and RGB."""
        return self.num_layers + 2

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Signals that the layers put out, that of the RGB layer last (section 3.2, figure 4b).

        Cutoff and stopband grow geometrically up to the first critically sampled layer, the former to half
        the resolution; the sampling rate is the least power of two that holds the stopband; what rate the
        power of two leaves over widens the transition band.
        """
        return tuple(self._signal(index) for index in range(self.num_layers + 1))

    @property
    def layers(self) -> tuple[LayerShape, ...]:
        """Layers of the synthesis network; each but the first starts from the one before it."""
        signals = self.signals
        shapes = []
        for index, target in enumerate(signals):
            to_rgb = index == self.num_layers
            critical = index >= self.num_layers - self.num_critical
            shapes.append(
                LayerShape(
                    name=f"L{index}_{target.size}_{target.channels}",
                    source=signals[max(index - 1, 0)],
                    target=target,
                    to_rgb=to_rgb,
                    kernel=1 if to_rgb or self.variant == "r" else 3,
                    radial=self.variant == "r" and not critical,
                )
            )
        return tuple(shapes)

    def discriminator(self) -> StyleGAN2Spec:
        """Return the sizes of the discriminator, which is a StyleGAN2's."""
        return StyleGAN2Spec(
            self.resolution, self.channels, self.z_dim, self.classes, self.w_dim, self.mapping_layers,
            self.channel_base, self.channel_max, self.mbstd_group, self.label_layers,
        )  # fmt: skip

    def _signal(self, index: int) -> Signal:
        share = min(index / (self.num_layers - self.num_critical), 1.0)
        nyquist = self.resolution / 2
        cutoff = self.first_cutoff * (nyquist / self.first_cutoff) ** share
        last_stopband = nyquist * self.last_stopband_rel
        stopband = self.first_stopband * (last_stopband / self.first_stopband) ** share
        rate = 2 ** math.ceil(math.log2(min(2 * stopband, self.resolution)))
        final = index >= self.num_layers - 1
        widen = 2 if self.variant == "r" else 1
        width = round(min(widen * self.channel_base / 2 / cutoff, widen * self.channel_max))
        return Signal(
            cutoff=cutoff,
            half_width=max(stopband, rate / 2) - cutoff,
            rate=rate,
            size=self.resolution if final else rate + 2 * self.margin_size,
            channels=self.channels if index == self.num_layers else width,
        )
