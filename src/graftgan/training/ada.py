"""The adaptive-augmentation pipeline `bgc` of StyleGAN2-ADA: pixel moves, geometry and colour.

Karras et al., "Training Generative Adversarial Networks with Limited Data", NeurIPS 2020, arXiv 2006.06676,
appendix B. Three steps kept apart so that each can be checked alone: draw random numbers (the same whatever p
is), turn them into parameters at probability p, apply the parameters to the images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from graftgan.device import send
from graftgan.training.warp import blit, resample
from graftgan.world import own, shards

BLIT_TRANSFORMS = ("xflip", "rotate90", "xint")
GEOMETRIC_TRANSFORMS = ("scale", "rotate", "aniso", "xfrac")
COLOR_TRANSFORMS = ("brightness", "contrast", "lumaflip", "hue", "saturation")
BGC_TRANSFORMS = BLIT_TRANSFORMS + GEOMETRIC_TRANSFORMS + COLOR_TRANSFORMS

_GATES = ("rotate_post", *BGC_TRANSFORMS)
_UNIFORMS = ("xflip", "rotate90", "xint", "yint", "rotate", "rotate_post", "lumaflip", "hue")
_NORMALS = ("scale", "aniso", "xfrac", "yfrac", "brightness", "contrast", "saturation")


@dataclass(frozen=True)
class AdaStrengths:
    """How far each transform reaches; the defaults are those of the paper.

    Attributes:
        xint_max: largest integer shift, as a share of the image side.
        scale_std: standard deviation of log2 of the isotropic scale.
        rotate_max: largest rotation, as a share of a half turn.
        aniso_std: standard deviation of log2 of the anisotropic scale.
        xfrac_std: standard deviation of the fractional shift, as a share of the image side.
        brightness_std: standard deviation of the brightness offset, for images in [-1, 1].
        contrast_std: standard deviation of log2 of the contrast.
        hue_max: largest hue rotation, as a share of a half turn.
        saturation_std: standard deviation of log2 of the saturation.
    """

    xint_max: float = 0.125
    scale_std: float = 0.2
    rotate_max: float = 1.0
    aniso_std: float = 0.2
    xfrac_std: float = 0.125
    brightness_std: float = 0.2
    contrast_std: float = 0.5
    hue_max: float = 1.0
    saturation_std: float = 1.0


@dataclass(frozen=True)
class AdaParameters:
    """What is done to each image of a batch: float64 tensors of shape [N] on the CPU.

    Attributes:
        flip: 1 mirrors left and right, 0 does not.
        quarter_turns: counter-clockwise turns by 90 degrees, 0 to 3 (as `torch.rot90` over rows and columns).
        shift_x: whole pixels to the right.
        shift_y: whole pixels down.
        scale: magnification of both sides.
        angle_pre: counter-clockwise rotation before the anisotropic scale, in radians.
        aniso: factor on the width; the height is divided by it.
        angle_post: counter-clockwise rotation after the anisotropic scale, in radians.
        frac_x: pixels to the right, any real number.
        frac_y: pixels down, any real number.
        brightness: offset added to the colours.
        contrast: factor on the colours, after the brightness.
        luma_flip: 1 negates the luma, 0 does not.
        hue: rotation of the colours about the grey axis, in radians.
        saturation: factor on the distance from the grey axis.
    """

    flip: Tensor
    quarter_turns: Tensor
    shift_x: Tensor
    shift_y: Tensor
    scale: Tensor
    angle_pre: Tensor
    aniso: Tensor
    angle_post: Tensor
    frac_x: Tensor
    frac_y: Tensor
    brightness: Tensor
    contrast: Tensor
    luma_flip: Tensor
    hue: Tensor
    saturation: Tensor

    @classmethod
    def neutral(cls, count: int) -> AdaParameters:
        """Return the parameters that leave `count` images as they are."""
        ones = {"scale", "aniso", "contrast", "saturation"}
        make = {field.name: float(field.name in ones) for field in fields(cls)}
        return cls(**{name: torch.full((count,), value, dtype=torch.float64) for name, value in make.items()})


@dataclass(frozen=True)
class AdaDraws:
    """Random numbers of one batch by transform: float64 tensors of shape [N] on the CPU.

    Attributes:
        gate: uniform on [0, 1); the transform is on where it is below its probability.
        uniform: uniform on [0, 1), for the strength.
        normal: standard normal, for the strength.
    """

    gate: dict[str, Tensor]
    uniform: dict[str, Tensor]
    normal: dict[str, Tensor]

    def own(self, parts: int) -> AdaDraws:
        """Return this worker's images of a batch of equal parts, each of which is cut over the workers."""
        kinds = (self.gate, self.uniform, self.normal)
        return AdaDraws(*({name: own(values, parts) for name, values in kind.items()} for kind in kinds))


def draw(count: int, rng: torch.Generator) -> AdaDraws:
    """Draw what `count` images need; always the same amount, whatever p and the transforms in use.

    Args:
        count: number of images N.
        rng: a generator on the CPU.
    """
    uniform = torch.rand(count, len(_GATES) + len(_UNIFORMS), generator=rng, dtype=torch.float64)
    normal = torch.randn(count, len(_NORMALS), generator=rng, dtype=torch.float64)
    columns = uniform.unbind(1)
    return AdaDraws(
        gate=dict(zip(_GATES, columns[: len(_GATES)], strict=True)),
        uniform=dict(zip(_UNIFORMS, columns[len(_GATES) :], strict=True)),
        normal=dict(zip(_NORMALS, normal.unbind(1), strict=True)),
    )


def parameters_at(
    p: float,
    draws: AdaDraws,
    size: int,
    strengths: AdaStrengths,
    transforms: Collection[str] = BGC_TRANSFORMS,
) -> AdaParameters:
    """Turn draws into parameters: each transform is on with probability p, else neutral.

    A mirror or luma flip that is on happens in half of the cases and a quarter turn in three of four, as in
    the paper. Each of the two rotations has 1 - sqrt(1 - p), so that one or both are on with probability p.

    Args:
        p: probability in [0, 1].
        draws: from `draw`, for N images.
        size: side of the images in pixels.
        strengths: reach of each transform.
        transforms: names that may be on, of `BGC_TRANSFORMS`.
    """
    u, z, s = draws.uniform, draws.normal, strengths
    p_rotate = 1 - math.sqrt(1 - p)

    def on(name: str, value: Tensor, neutral: float = 0.0, gate: str = "") -> Tensor:
        if name not in transforms:
            return torch.full_like(value, neutral)
        chance = p_rotate if name == "rotate" else p
        return torch.where(draws.gate[gate or name] < chance, value, neutral)

    def signed(name: str) -> Tensor:
        return 2 * u[name] - 1

    return AdaParameters(
        flip=on("xflip", (2 * u["xflip"]).floor()),
        quarter_turns=on("rotate90", (4 * u["rotate90"]).floor()),
        shift_x=on("xint", (signed("xint") * s.xint_max * size).round()),
        shift_y=on("xint", (signed("yint") * s.xint_max * size).round()),
        scale=on("scale", torch.exp2(z["scale"] * s.scale_std), 1.0),
        angle_pre=on("rotate", signed("rotate") * math.pi * s.rotate_max),
        aniso=on("aniso", torch.exp2(z["aniso"] * s.aniso_std), 1.0),
        angle_post=on("rotate", signed("rotate_post") * math.pi * s.rotate_max, gate="rotate_post"),
        frac_x=on("xfrac", z["xfrac"] * s.xfrac_std * size),
        frac_y=on("xfrac", z["yfrac"] * s.xfrac_std * size),
        brightness=on("brightness", z["brightness"] * s.brightness_std),
        contrast=on("contrast", torch.exp2(z["contrast"] * s.contrast_std), 1.0),
        luma_flip=on("lumaflip", (2 * u["lumaflip"]).floor()),
        hue=on("hue", signed("hue") * math.pi * s.hue_max),
        saturation=on("saturation", torch.exp2(z["saturation"] * s.saturation_std), 1.0),
    )


def _affine(xx: Tensor, xy: Tensor, yx: Tensor, yy: Tensor, tx: Tensor, ty: Tensor) -> Tensor:
    zero, one = torch.zeros_like(xx), torch.ones_like(xx)
    return torch.stack([xx, xy, tx, yx, yy, ty, zero, zero, one], dim=1).view(-1, 3, 3)


def _rotation_inverse(cos: Tensor, sin: Tensor) -> Tensor:
    zero = torch.zeros_like(cos)
    return _affine(cos, -sin, sin, cos, zero, zero)


def _pixel_inverse(do: AdaParameters) -> Tensor:
    """Inverse of mirror, quarter turns, integer shift in this order; whole numbers, hence exact."""
    zero, one = torch.zeros_like(do.flip), torch.ones_like(do.flip)
    mirror = _affine(1 - 2 * do.flip, zero, zero, one, zero, zero)
    turns = do.quarter_turns.long()
    cos = do.flip.new_tensor([1, 0, -1, 0])[turns]
    sin = do.flip.new_tensor([0, 1, 0, -1])[turns]
    shift = _affine(one, zero, zero, one, -do.shift_x, -do.shift_y)
    return mirror @ _rotation_inverse(cos, sin) @ shift


def _resample_inverse(do: AdaParameters) -> Tensor:
    """Inverse of scale, rotation, anisotropic scale, rotation, fractional shift in this order."""
    zero, one = torch.zeros_like(do.flip), torch.ones_like(do.flip)
    scale = _affine(1 / do.scale, zero, zero, 1 / do.scale, zero, zero)
    before = _rotation_inverse(do.angle_pre.cos(), do.angle_pre.sin())
    aniso = _affine(1 / do.aniso, zero, zero, do.aniso, zero, zero)
    after = _rotation_inverse(do.angle_post.cos(), do.angle_post.sin())
    shift = _affine(one, zero, zero, one, -do.frac_x, -do.frac_y)
    return scale @ before @ aniso @ after @ shift


def _differs(*pairs: tuple[Tensor, float]) -> Tensor:
    return torch.stack([value != neutral for value, neutral in pairs]).any(dim=0)


def _where(
    images: Tensor, chosen: Tensor, transform: Callable[[Tensor, Tensor], Tensor], arguments: Tensor
) -> Tensor:
    """Apply `transform(images, arguments)` to the chosen images only; the others keep their exact values."""
    index = chosen.nonzero().squeeze(1)
    if index.numel() == 0:
        return images
    arguments = send(arguments[index].to(images.dtype), images.device)
    if index.numel() == len(images):
        return transform(images, arguments)
    index = send(index, images.device)
    return images.index_copy(0, index, transform(images.index_select(0, index), arguments))


def apply_geometry(images: Tensor, do: AdaParameters) -> Tensor:
    """Move and warp the images; those that only move by whole pixels keep their exact values.

    Args:
        images: [N, C, S, S].
        do: parameters for N images.
    """
    warped = _differs(
        (do.scale, 1), (do.angle_pre, 0), (do.aniso, 1), (do.angle_post, 0), (do.frac_x, 0), (do.frac_y, 0)
    )
    moved = _differs((do.flip, 0), (do.quarter_turns, 0), (do.shift_x, 0), (do.shift_y, 0))
    pixel = _pixel_inverse(do)
    images = _where(images, moved & ~warped, blit, pixel[:, :2])
    return _where(images, warped, resample, (pixel @ _resample_inverse(do))[:, :2])


def color_matrix(do: AdaParameters) -> Tensor:
    """Return the affine colour map [N, 3, 4]: brightness, contrast, luma flip, hue, saturation in this order.

    With v = (1, 1, 1) / sqrt(3), P = v v^T, Q = I - P and K the cross product by v, the four matrices after
    the brightness offset b commute, so the product in appendix B is c (f P + s (cos(t) Q + sin(t) K)) applied
    to x + b, with contrast c, f = -1 for a luma flip, saturation s and hue angle t.
    """
    grey = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    rest = torch.eye(3, dtype=torch.float64) - grey
    cross = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=torch.float64) / math.sqrt(3)
    luma = do.contrast * (1 - 2 * do.luma_flip)
    chroma = do.contrast * do.saturation
    cos, sin = (chroma * do.hue.cos())[:, None, None], (chroma * do.hue.sin())[:, None, None]
    linear = luma[:, None, None] * grey + cos * rest + sin * cross
    offset = (luma * do.brightness)[:, None, None].expand(-1, 3, 1)
    return torch.cat([linear, offset], dim=2)


def _recolor(images: Tensor, matrix: Tensor) -> Tensor:
    """Apply [N, k, k+1] affine maps to the first k channels; the others (alpha) pass."""
    k = matrix.shape[1]
    mixed = torch.baddbmm(matrix[:, :, k:], matrix[:, :, :k], images[:, :k].flatten(2))
    mixed = mixed.unflatten(2, images.shape[2:])
    return mixed if images.shape[1] == k else torch.cat([mixed, images[:, k:]], dim=1)


def apply_color(images: Tensor, do: AdaParameters) -> Tensor:
    """Change the colours: three channels or the first three of four; brightness and contrast of a single one.

    Args:
        images: [N, 1 | 3 | 4, H, W] in [-1, 1].
        do: parameters for N images.
    """
    changed = _differs((do.brightness, 0), (do.contrast, 1))
    if images.shape[1] == 1:
        matrix = torch.stack([do.contrast, do.contrast * do.brightness], dim=1)[:, None]
        return _where(images, changed, _recolor, matrix)
    changed = changed | _differs((do.luma_flip, 0), (do.hue, 0), (do.saturation, 1))
    return _where(images, changed, _recolor, color_matrix(do))


class AdaPipe:
    """The pipeline as one callable; it holds no state, all randomness comes from the generator.

    Args:
        strengths: reach of each transform.
        transforms: names that may be on, of `BGC_TRANSFORMS`.

    Raises:
        ValueError: a name is not one of `BGC_TRANSFORMS`.
    """

    def __init__(
        self, strengths: AdaStrengths | None = None, transforms: Collection[str] = BGC_TRANSFORMS
    ) -> None:
        unknown = sorted(set(transforms) - set(BGC_TRANSFORMS))
        if unknown:
            raise ValueError(f"unknown ADA transforms {unknown}; known are {list(BGC_TRANSFORMS)}")
        self.strengths = strengths or AdaStrengths()
        self.transforms = frozenset(transforms)

    def __call__(self, images: Tensor, p: float, rng: torch.Generator, parts: int = 1) -> Tensor:
        """Augment a batch; differentiable twice in `images`.

        Args:
            images: [N, 1 | 3 | 4, S, S] floats in [-1, 1], square.
            p: probability in [0, 1] of each transform; 0 returns `images` itself.
            rng: CPU generator; it moves on by the same amount whatever p is.
            parts: Equal parts, one behind the other, that are each cut over the workers.

        Returns:
            Images of the same shape, dtype and device. Half precision is computed in float32.

        Raises:
            ValueError: p out of range, or images not of the stated shape.
        """
        check_images(images)
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"augmentation probability p must lie in [0, 1], got {p}")
        draws = draw(len(images) * shards(), rng).own(parts)
        if p == 0.0:
            return images
        do = parameters_at(p, draws, images.shape[-1], self.strengths, self.transforms)
        with torch.autocast(images.device.type, enabled=False):
            wide = images if images.dtype == torch.float64 else images.float()
            return apply_color(apply_geometry(wide, do), do).to(images.dtype)


def check_images(images: Tensor) -> None:
    """Refuse what no augmentation here is defined for.

    Raises:
        ValueError: `images` is not a floating [N, 1 | 3 | 4, S, S] tensor with S >= 2.
    """
    square = images.ndim == 4 and images.shape[2] == images.shape[3] >= 2
    if not (square and images.shape[1] in (1, 3, 4) and images.is_floating_point()):
        raise ValueError(
            f"augmentation needs floating images [N, 1|3|4, S, S], got {images.dtype} {list(images.shape)}"
        )
