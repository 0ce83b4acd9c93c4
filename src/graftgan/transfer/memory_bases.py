"""GAN Memory's compression of later tasks (Cong et al. 2020, arXiv:2006.07543, released code).

Scales and shifts of the large layers, as matrices [O, I], are few components ``s u v^T``. A later task starts
as the last one, with coefficients on the components of all tasks before and a residual R of its own,
``U_{<t} diag(s) V_{<t}^T + R``, both of which move. A term in G's loss keeps R of low rank, and at the end R
keeps as many of its components as `finetune.gan_memory.compress.keep` asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graftgan.checkpoints.adapters import Adapter, read_adapter
from graftgan.checkpoints.factors import EARLIER, LEFT, RIGHT, SCALE, SUFFIXES, bases, coefficients
from graftgan.config import Finetune
from graftgan.contract import digest_file
from graftgan.errors import CheckpointError, ConfigError
from graftgan.gans.base import Gan
from graftgan.gans.folding import MARK
from graftgan.method_config import Compression
from graftgan.transfer.levels import FAMILY_LEVELS, is_convolution

PARTS = ("gamma", "beta")
WIDTHS = (64, 128, 256, 512)
"""Most filters of the layers that each value of `keep` is for; the last one has no limit."""
IMAGE_SHARE = 8


@dataclass(frozen=True)
class Start:
    """Where a matrix of a later task starts: components [O, m] and [I, m], with coefficients [m]."""

    left: Tensor
    right: Tensor
    scale: Tensor


def read_earlier(settings: Finetune) -> list[Adapter]:
    """Return the adapters of the tasks before.

    Raises:
        MissingInput: There is no such file.
        CheckpointError: One is no adapter of GAN Memory, or does not build on all that are named before it.
    """
    found: list[Adapter] = []
    digests: list[str] = []
    for name in settings.gan_memory.compress.earlier:
        path = Path(name).expanduser()
        adapter = read_adapter(path)
        if adapter.method != "gan_memory" or list(adapter.after) != digests:
            what = (
                f"of method {adapter.method}" if adapter.method != "gan_memory" else "not built on the others"
            )
            raise CheckpointError(
                f"finetune.gan_memory.compress.earlier: {path} is {what}",
                "name the compressed adapters of gan_memory from the first to the last",
            )
        if found:
            check_same(found[0], adapter, str(path))
        found.append(adapter)
        digests.append(digest_file(path))
    return found


def check_same(first: Adapter, other: Adapter, origin: str) -> None:
    """Refuse adapters that were trained on another base, or normalised otherwise.

    Raises:
        CheckpointError: Naming the file.
    """
    for field in ("base_sha256", "settings", "spec"):
        if getattr(first, field) != getattr(other, field):
            raise CheckpointError(
                f"{origin} differs from the adapters before it in {field}",
                "use tasks of one base and settings",
            )


def compressed_layers(gan: Gan, settings: Finetune) -> list[str]:
    """Return which of G's 3x3 convolutions are compressed: of small maps, where not everything is kept."""
    section = settings.gan_memory.compress
    if not section.enabled:
        return []
    sides, _ = FAMILY_LEVELS[gan.spec.family](gan.spec)
    limit = section.up_to_px or max(gan.spec.resolution // IMAGE_SHARE, 4)
    small = tuple(prefix for prefix, side in sides.items() if side <= limit)
    return [
        name
        for name, module in gan.generator.named_modules()
        if is_convolution(name, module)
        and f"{name}.".startswith(small)
        and kept_share(len(module.weight), section) < 1
    ]


def kept_share(filters: int, section: Compression) -> float:
    """Return p(co): the share of the singular values that a layer of so many filters keeps."""
    return section.keep[sum(filters > width for width in WIDTHS)]


def starts_of(name: str, earlier: Sequence[Adapter]) -> dict[str, Start]:
    """Return where the matrices of a layer start, by part: those that a task before has components of."""
    found = {}
    for part in PARTS:
        tensor = f"{name}.{MARK}weight.0.{part}"
        holding = [adapter for adapter in earlier if tensor + SCALE in adapter.tensors]
        if (known := bases(tensor, earlier)) is None:
            continue
        scale = coefficients(tensor, holding[-1])
        # What was made before the last of them is not in it: its coefficients there are none.
        found[part] = Start(*known, torch.cat([scale, scale.new_zeros(known[0].shape[1] - len(scale))]))
    return found


class Shared(nn.Module):
    """One matrix ``left diag(earlier) right^T`` [O, I, 1, 1], whose coefficients move.

    Args:
        start: Components and first coefficients.
        device: Where the weight is.
    """

    left: Tensor
    right: Tensor

    def __init__(self, start: Start, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("left", start.left.to(device), persistent=False)
        self.register_buffer("right", start.right.to(device), persistent=False)
        self.earlier = nn.Parameter(start.scale.clone().to(device))

    def forward(self) -> Tensor:
        """Return the matrix as the planes of filters."""
        return ((self.left * self.earlier) @ self.right.T)[:, :, None, None]


def components_kept(values: Tensor, old: float, share: float) -> int:
    """Return how many of the sorted singular values of R a task keeps.

    The fewest n with ``old + sum_{j<n} sigma_j >= share * (old + sum_j sigma_j)``: none if the components of
    the tasks before make up the share already.

    Args:
        values: sigma, descending.
        old: Sum of the coefficients' absolute values on those components.
        share: p(co).
    """
    sums = torch.cat([torch.zeros(1, dtype=torch.float64), values.double().cumsum(0)]) + old
    return int((sums < share * sums[-1]).sum())


def compress(
    adapter: Adapter, layers: Sequence[str], section: Compression, earlier: Sequence[Adapter]
) -> Adapter:
    """Return an adapter with the matrices of some layers as factors, where these are smaller.

    A matrix that needs so many components that they take no less than itself stays whole, and later tasks
    find no components of it.

    Args:
        adapter: As `extract` gave it, R being its gamma and beta.
        layers: Names of the compressed layers.
        section: Shares and the largest number of components.
        earlier: Adapters of the tasks before, in their order.
    """
    tensors = dict(adapter.tensors)
    for name in layers:
        for part in PARTS:
            matrix = f"{name}.{MARK}weight.0.{part}"
            shared = f"{name}.{MARK}weight.0.shared.{part}.earlier"
            tensors |= _factors(matrix, tensors.pop(matrix), tensors.pop(shared, None), section, earlier)
    return replace(adapter, tensors=tensors)


def _factors(
    name: str, residual: Tensor, old: Tensor | None, section: Compression, earlier: Sequence[Adapter]
) -> dict[str, Tensor]:
    rows, columns = residual.shape[:2]
    before = residual.new_zeros(0) if old is None else old
    u, values, v = torch.linalg.svd(residual[:, :, 0, 0].double(), full_matrices=False)
    count = components_kept(values, float(before.abs().sum()), kept_share(rows, section))
    count = min(count, section.components or count)
    if count * (rows + columns + 1) + len(before) >= rows * columns:
        if old is None:
            return {name: residual}
        known = bases(name, earlier)
        assert known is not None
        return {name: residual + ((known[0] * before) @ known[1].T)[:, :, None, None]}
    dtype = residual.dtype
    return {
        name + LEFT: u[:, :count].to(dtype).contiguous(),
        name + RIGHT: v[:count].T.to(dtype).contiguous(),
        name + SCALE: values[:count].to(dtype),
        name + EARLIER: before,
    }


def least_saved(gan: Gan, settings: Finetune) -> int:
    """Return how many values compression leaves out at least, of a first task with `components` given.

    As many as `keep` asks for are known after training only, and may be all.
    """
    count, saved = settings.gan_memory.compress.components, 0
    if count is None:
        return 0
    for name in compressed_layers(gan, settings):
        weight: Any = gan.generator.get_submodule(name).weight
        rows, columns = weight.shape[:2]
        saved += len(PARTS) * max(rows * columns - count * (rows + columns + 1), 0)
    return saved


def told(adapter: Adapter) -> str:
    """Return what a compressed adapter holds, as a sentence."""
    new = [t.numel() for n, t in adapter.tensors.items() if n.endswith(SCALE)]
    size = sum(t.numel() for n, t in adapter.tensors.items() if n.endswith(SUFFIXES))
    return (
        f"finetune.gan_memory.compress: {len(new)} matrices of the adapter are {sum(new)} new components, "
        f"{size:,} values; validation KID was measured before the others were dropped"
    )


def check(settings: Finetune) -> None:
    """Refuse earlier adapters without compression.

    Raises:
        ConfigError: Naming both keys.
    """
    section = settings.gan_memory.compress
    if section.earlier and not section.enabled:
        raise ConfigError(
            f"finetune.gan_memory.compress.earlier names {len(section.earlier)} adapters, but "
            "finetune.gan_memory.compress.enabled=false builds on none",
            "set finetune.gan_memory.compress.enabled=true, or earlier=[]",
        )
