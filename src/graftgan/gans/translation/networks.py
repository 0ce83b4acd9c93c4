"""ResNet generators, the patch discriminator, and the layers they share with the U-Nets."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from graftgan.gans.translation.spec import TranslatorSpec

LRELU_SLOPE = 0.2
DROPOUT = 0.5
INIT_STD = 0.02


def norm_layer(spec: TranslatorSpec, channels: int) -> nn.Module:
    """Return the norm of a spec; instance norm has neither weights nor running statistics."""
    if spec.norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.InstanceNorm2d(channels)


def initialise(network: nn.Module) -> None:
    """Draw weights from N(0, 0.02^2) and gains from N(1, 0.02^2), clear biases (Isola et al. 2017, 6.2)."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, INIT_STD)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, INIT_STD)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class ResnetBlock(nn.Module):
    """Adds to its input two 3x3 convolutions with reflection and norm; between them ReLU and dropout."""

    def __init__(self, spec: TranslatorSpec, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for last in (False, True):
            layers += [
                nn.ReflectionPad2d(1),
                nn.Conv2d(channels, channels, 3, bias=spec.bias),
                norm_layer(spec, channels),
            ]
            if not last:
                layers += [nn.ReLU(), *[nn.Dropout(DROPOUT)] * spec.dropout]
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, C, H, W] to the same shape."""
        return cast(Tensor, x + self.conv_block(x))


class ResnetTranslator(nn.Module):
    """Two halvings, residual blocks, two doublings, 7x7 convolutions at both ends (Zhu et al. 2017, 7.2)."""

    def __init__(self, spec: TranslatorSpec) -> None:
        super().__init__()
        self.spec = spec
        ngf, bias = spec.ngf, spec.bias
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(spec.in_channels, ngf, 7, bias=bias)]
        layers += [norm_layer(spec, ngf), nn.ReLU()]
        for width in (ngf, 2 * ngf):
            down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=bias)
            layers += [down, norm_layer(spec, 2 * width), nn.ReLU()]
        layers += [ResnetBlock(spec, 4 * ngf) for _ in range(spec.depth)]
        for width in (2 * ngf, ngf):
            up = nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1, bias=bias)
            layers += [up, norm_layer(spec, width), nn.ReLU()]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, spec.out_channels, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, img: Tensor) -> Tensor:
        """Map images [N, in_channels, H, W] to [N, out_channels, H, W]; H and W are multiples of 4."""
        return cast(Tensor, self.model(img))


class PatchDiscriminator(nn.Module):
    """4x4 convolutions whose outputs each judge a patch of 70x70 pixels (Isola et al. 2017, 6.1.2)."""

    def __init__(self, spec: TranslatorSpec) -> None:
        super().__init__()
        self.spec = spec
        width = spec.ndf
        layers: list[nn.Module] = [nn.Conv2d(spec.in_channels, width, 4, stride=2, padding=1)]
        layers += [nn.LeakyReLU(LRELU_SLOPE)]
        for stride in (*[2] * (spec.depth - 1), 1):
            layers += [nn.Conv2d(width, 2 * width, 4, stride=stride, padding=1, bias=spec.bias)]
            layers += [norm_layer(spec, 2 * width), nn.LeakyReLU(LRELU_SLOPE)]
            width *= 2
        layers += [nn.Conv2d(width, 1, 4, padding=1)]
        self.model = nn.Sequential(*layers)

    def forward(self, img: Tensor) -> Tensor:
        """Map images [N, in_channels, H, W] to logits [N, 1, H / 8 - 2, W / 8 - 2]."""
        return cast(Tensor, self.model(img))
