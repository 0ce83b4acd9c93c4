"""A GAN on disk: one safetensors file with three networks, and its spec as JSON beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from graftgan.contract import read_json, write_json
from graftgan.errors import CheckpointError, MissingInput
from graftgan.gans.base import Gan, build
from graftgan.gans.folding import adapters, plain_state
from graftgan.gans.miner import is_mined, miner_of
from graftgan.gans.patch_heads import is_patch_head
from graftgan.gans.prior import Prior, split_prior
from graftgan.gans.spec import GanSpec

WEIGHTS = "gan.safetensors"
SPEC = "spec.json"
NETWORKS = ("generator", "generator_ema", "discriminator")


@dataclass(frozen=True)
class LoadTable:
    """What a load did with each tensor.

    Attributes:
        loaded: Names found in file and network with equal shapes.
        missing: Names the network has and the file lacks.
        unexpected: Names the file has and the network lacks.
        reshaped: Names whose shapes differ, as `name: file shape, network shape`.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether every tensor was found and fits."""
        return not (self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} loaded"]
        for word in ("missing", "unexpected", "reshaped"):
            if names := getattr(self, word):
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                parts.append(f"{len(names)} {word} ({', '.join(names[:3])}{more})")
        return ", ".join(parts)


def compare(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> LoadTable:
    """Compare names and shapes of a file's tensors with a network's."""
    both = [name for name in expected if name in tensors]
    fits = [name for name in both if tensors[name].shape == expected[name].shape]
    return LoadTable(
        loaded=tuple(fits),
        missing=tuple(name for name in expected if name not in tensors),
        unexpected=tuple(name for name in tensors if name not in expected),
        reshaped=tuple(
            f"{name}: {list(tensors[name].shape)}, {list(expected[name].shape)}"
            for name in both
            if name not in fits
        ),
    )


def gan_tensors(gan: Gan, networks: Iterable[str] = NETWORKS) -> dict[str, Tensor]:
    """Return the state of the named networks as contiguous CPU tensors with dotted names, adapters folded.

    A prior comes with the generators, as ``prior.…``, unless it has become N(0, I). A miner is one. What only
    trains, such as heads for patches, is left out.
    """
    tensors = {}
    for network in networks:
        for name, tensor in plain_state(getattr(gan, network)).items():
            if not is_mined(name) and not is_patch_head(name):
                tensors[f"{network}.{name}"] = tensor.detach().cpu().contiguous().clone()
    miner = miner_of(gan.generator_ema)
    return tensors | prior_tensors(gan.prior if miner is None else miner.law())


def prior_tensors(prior: Prior | None) -> dict[str, Tensor]:
    """Return the tensors of a prior; none for N(0, I), which its own draws at lambda = 1 are."""
    return {} if prior is None or prior.position >= 1.0 else prior.tensors()


def same_law(one: Prior | None, other: Prior | None) -> bool:
    """Tell whether files would hold the same of two laws, bit for bit."""
    parts, others = prior_tensors(one), prior_tensors(other)
    return parts.keys() == others.keys() and all(torch.equal(t, others[name]) for name, t in parts.items())


def adapter_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return what parametrisations brought to a network as contiguous CPU tensors, empty without any."""
    return {name: p.detach().cpu().contiguous().clone() for name, p in adapters(network).items()}


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that others may read; the library alone makes it private to its owner.

    Args:
        tensors: Names and tensors, which share no memory.
        path: File to write.
        metadata: One entry at most: the order of several is not the same in every process.
    """
    save_file(tensors, path, metadata)
    path.chmod(0o644)


def save_gan(gan: Gan, folder: Path, weights: str = WEIGHTS) -> None:
    """Write weights and spec into `folder`, which must exist; fresh networks are left out."""
    save_tensors(gan_tensors(gan, [name for name in NETWORKS if name not in gan.fresh]), folder / weights)
    write_json(folder / SPEC, gan.spec.to_dict())


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Read a safetensors file inside, and say which one is absent or damaged."""
    if not path.is_file():
        raise MissingInput(f"{path} does not exist", "correct the path, or rebuild the checkpoint")
    try:
        yield
    except (SafetensorError, OSError, ValueError) as error:
        message = f"{path} is not a whole safetensors file: {error}"
        raise CheckpointError(message, "fetch or build it again") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        MissingInput: If there is no such file.
        CheckpointError: If it is not a whole safetensors file.
    """
    with _whole(path):
        return load_file(path)


def stored_networks(path: Path) -> set[str]:
    """Return which networks a weights file holds, without reading them.

    Raises:
        MissingInput: If there is no such file.
        CheckpointError: If it is not a whole safetensors file.
    """
    with _whole(path), safe_open(path, framework="pt") as file:
        return {name.split(".")[0] for name in file.keys()} & set(NETWORKS)  # noqa: SIM118


def read_spec(path: Path) -> GanSpec:
    """Read the spec beside a weights file.

    Raises:
        CheckpointError: If it does not describe a network.
    """
    if not path.is_file():
        raise MissingInput(f"{path} does not exist", "correct the path, or rebuild the checkpoint")
    try:
        return GanSpec.from_dict(read_json(path))
    except Exception as error:
        message = f"{path} does not describe a network: {getattr(error, 'message', error)}"
        raise CheckpointError(message, "fetch or build it again") from error


def load_network(network: nn.Module, tensors: dict[str, Tensor], origin: Path) -> LoadTable:
    """Load tensors into a network, all of them or none.

    Raises:
        CheckpointError: If a tensor is missing, unknown, of another shape, or not finite.
    """
    table = compare(tensors, network.state_dict())
    if not table.whole:
        message = f"{origin} does not fit its network: {table}"
        raise CheckpointError(message, "use the file the spec was written for")
    bad = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        message = f"{origin} holds values that are not finite in {', '.join(bad[:3])}"
        raise CheckpointError(message, "use another file")
    network.load_state_dict(tensors)
    return table


def load_gan(folder: Path, weights: str = WEIGHTS) -> Gan:
    """Load the networks of a checkpoint folder, strictly.

    A file of a generator alone, as some publish, leaves the discriminator fresh and says so in `Gan.fresh`.

    Raises:
        MissingInput: If a file is absent.
        CheckpointError: If the file is damaged, or a tensor does not fit.
    """
    return assemble(read_spec(folder / SPEC), read_tensors(folder / weights), folder / weights)


def read_prior(
    spec: GanSpec, tensors: Mapping[str, Tensor], origin: Path
) -> tuple[dict[str, Tensor], Prior | None]:
    """Part the tensors of a file into those of its networks and its prior, None where it has none.

    Raises:
        CheckpointError: The prior is damaged, or its latents are not as long as the network's.
    """
    rest, prior = split_prior(tensors, origin)
    if prior is not None and prior.z_dim != spec.z_dim:
        raise CheckpointError(
            f"{origin}: its prior is of latents of length {prior.z_dim}, its network's have {spec.z_dim}",
            "use the file the spec was written for",
        )
    return rest, prior


def assemble(spec: GanSpec, tensors: dict[str, Tensor], origin: Path) -> Gan:
    """Build the networks of a spec from the tensors of all of them, strictly.

    Raises:
        CheckpointError: A tensor is missing, unknown, of another shape, or not finite.
    """
    gan = build(spec, seed=0)
    tensors, gan.prior = read_prior(spec, tensors, origin)
    for network in NETWORKS:
        prefix = f"{network}."
        part = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        if network == "discriminator" and not part:
            gan.fresh = (network,)
            continue
        load_network(getattr(gan, network), part, origin)
    strays = [name for name in tensors if name.split(".")[0] not in NETWORKS]
    if strays:
        raise CheckpointError(f"{origin} holds unknown tensors: {', '.join(strays[:3])}", "use another file")
    return gan
