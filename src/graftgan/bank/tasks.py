"""Begins, finishes, loads and checks the tasks of a bank."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from graftgan.bank.factorised import (
    Factorised,
    Reference,
    compose,
    factorise,
    materialise,
    mixtures,
    own_filters,
    warm_start,
)
from graftgan.bank.files import tensor_sha256
from graftgan.bank.inspection import Finding
from graftgan.bank.manifest import Outputs, Task
from graftgan.bank.store import Bank
from graftgan.errors import CheckpointError, ConfigError
from graftgan.gans.translation import TranslatorSpec, build_translator

RANDOM = "random"
WARM = "warm:"
OUTPUTS = "outputs"
FIXED_IMAGES = 2
TOLERANCE = 1e-3
"""Largest difference of a pixel, of a range of 2, that another processor or torch may make."""
FILTERS = ("weight", "free", "mix")


@dataclass
class Begun:
    """A new task under training.

    Attributes:
        name: Name of the task.
        init: `random` or `warm:TASK`.
        generator: The network to train; only what the task may change has gradients.
        base: What the bank was when the task was begun; `finish` refuses another one.
    """

    name: str
    init: str
    generator: nn.Module
    base: str


def begin(bank: Bank, name: str, init: str = RANDOM, seed: int = 0) -> Begun:
    """Build the generator of a new task.

    The first task gets an ordinary generator, later ones a factorised one on the filters of all tasks so far.

    Args:
        bank: Where the task will be added.
        name: Name of the new task.
        init: `random`, or `warm:TASK` to start as an earlier task of the bank.
        seed: Seed of what is drawn; the global random state is left as it was.

    Raises:
        ConfigError: The name is taken, or `init` is neither form, or warm where there is no task yet.
        MissingInput: The bank has no task of the name behind `warm:`.
        CheckpointError: A file of the bank is damaged.
    """
    bank.check_new(name)
    reference = _reference_task(bank, init)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = build_translator(bank.spec)
        if done := len(bank.tasks):
            rows = {layer.name: bank.rows(layer, done) for layer in bank.layers}
            factorise(generator, rows, {layer.name: layer.n_u for layer in bank.layers})
    if reference is not None:
        warm_start(generator, read_reference(bank, reference))
    return Begun(name, init, generator, bank.head)


def _reference_task(bank: Bank, init: str) -> Task | None:
    if init == RANDOM:
        return None
    if not init.startswith(WARM):
        raise ConfigError(f"init is {init!r}", f"use {RANDOM}, or {WARM}TASK with a task of the bank")
    if not bank.tasks:
        raise ConfigError(f"init is {init!r} and the bank has no task", f"use {RANDOM} for the first task")
    return bank.task(init.removeprefix(WARM))


def finish(
    bank: Bank,
    begun: Begun,
    generator: nn.Module | None = None,
    *,
    size_px: int = 0,
    data_fingerprint: str = "",
    config_hash: str = "",
    scores: Mapping[str, float] | None = None,
    background: str | None = None,
) -> Task:
    """Add a trained task to the bank.

    Args:
        bank: The bank that the task was begun on.
        begun: What `begin` gave.
        generator: The network to keep, such as the moving average; None takes the trained one.
        size_px: Side of the fixed inputs; 0 takes the smallest side that the architecture allows, 32 or more.
        data_fingerprint: Digest of the images that the task learnt from.
        config_hash: Digest of the settings of the training.
        scores: Held-out scores, by name.
        background: Colour behind transparent pixels of the task's images, `#rrggbb`; None is white.

    Raises:
        ConfigError: The bank has changed since the task was begun, or the network is another one.
        CheckpointError: The bank is damaged; nothing was added.
        TryAgain: Another process writes to the bank, or the disk is full.
    """
    network = begun.generator if generator is None else generator
    with bank.alone():
        if bank.head != begun.base:
            raise ConfigError(
                f"{bank.folder} has changed since {begun.name} was begun",
                "begin the task again on the new bank",
            )
        side = size_px or smallest_side(bank.spec)
        tensors = stored_tensors(network)
        tensors[OUTPUTS] = fixed_outputs(materialise(network), bank.spec, side)
        outputs = Outputs(sha256=tensor_sha256(tensors[OUTPUTS]), size_px=side, environment=environment())
        facts = {
            "data_fingerprint": data_fingerprint,
            "config_hash": config_hash,
            "init": begun.init,
            "outputs": outputs,
            "scores": {key: float(value) for key, value in (scores or {}).items()},
            "background": background,
        }
        return bank.append(begun.name, own_filters(network), tensors, facts)


def stored_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return what a task keeps for itself: `A/<layer>`, `bias/<layer>` and `norm/<module>/<tensor>`."""
    found = {f"A/{name}": mix for name, mix in mixtures(network).items()}
    for key, value in network.state_dict().items():
        if (name := _stored_name(network, key)) is not None:
            found[name] = value.detach().cpu().clone()
    return found


def _stored_name(network: nn.Module, key: str) -> str | None:
    """Return the name in a task's file of an entry of the state dict, or None for filters and mixtures."""
    module, _, leaf = key.rpartition(".")
    if not isinstance(network.get_submodule(module), (nn.Conv2d, nn.ConvTranspose2d, Factorised)):
        return f"norm/{module}/{leaf}"
    return None if leaf in FILTERS else f"bias/{module}"


def _state_key(name: str) -> str:
    parts = name.split("/")
    return f"{parts[1]}.bias" if parts[0] == "bias" else f"{parts[1]}.{parts[2]}"


def read_reference(bank: Bank, task: Task) -> Reference:
    """Read a stored task: the rows it added, its mixtures, biases and norms.

    Raises:
        CheckpointError: A file is damaged.
    """
    tensors = bank.task_tensors(task)
    own = {}
    for layer in bank.layers:
        own[layer.name] = bank.rows(layer, task.index)[layer.rows_after(task.index - 1) :].clone()
    mix = {name.removeprefix("A/"): tensor for name, tensor in tensors.items() if name.startswith("A/")}
    extras = {
        _state_key(name): tensor for name, tensor in tensors.items() if name.startswith(("bias/", "norm/"))
    }
    return Reference(own, mix, extras)


def load_task(bank: Bank, name: str) -> nn.Module:
    """Return the dense generator of a task, in evaluation mode on the CPU.

    Raises:
        MissingInput: There is no such task, or a file is missing.
        CheckpointError: A file is damaged.
    """
    task = bank.task(name)
    try:
        network = _dense(bank, task)
    except (RuntimeError, IndexError) as error:
        # What torch says of shapes and types that do not fit.
        raise CheckpointError(
            f"{bank.folder / task.file} does not hold the tensors of a {bank.spec.kind}: {error}",
            "bring the file back from a copy of the bank",
        ) from None
    return network.requires_grad_(False).eval()


def _dense(bank: Bank, task: Task) -> nn.Module:
    stored = read_reference(bank, task)
    state = dict(stored.extras)
    with exact():
        for layer in bank.layers:
            own = stored.own[layer.name]
            mix = stored.mix.get(layer.name, own.new_zeros(0, 0))
            filters = compose(own, mix, bank.rows(layer, task.index - 1))
            state[f"{layer.name}.weight"] = layer.shape.to_weight(filters)
    with torch.device("meta"):
        network = build_translator(bank.spec)
    network.load_state_dict(state, assign=True)
    return network


def smallest_side(spec: TranslatorSpec) -> int:
    """Return the side in pixels of the smallest square input, at least 32."""
    return max(32, 2**spec.depth) if spec.kind.startswith("unet") else 32


def fixed_inputs(spec: TranslatorSpec, side_px: int) -> Tensor:
    """Return the images that every task is tried with, [2, in_channels, side_px, side_px] in [-1, 1].

    They are a formula of whole numbers, the same on every machine and in every version.
    """
    n = torch.arange(FIXED_IMAGES).view(-1, 1, 1, 1)
    c = torch.arange(spec.in_channels).view(1, -1, 1, 1)
    y = torch.arange(side_px).view(1, 1, -1, 1)
    x = torch.arange(side_px).view(1, 1, 1, -1)
    return ((5 * x + 3 * y + x * y // 8 + 61 * c + 97 * n) % 256).float() / 127.5 - 1.0


@contextmanager
def exact() -> Iterator[None]:
    """Compute on one thread during the block, so that sums are made in the same order each time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_num_threads(threads)


def fixed_outputs(network: nn.Module, spec: TranslatorSpec, side_px: int) -> Tensor:
    """Return what a dense network makes of the fixed inputs on the CPU, one by one, in evaluation mode."""
    was_training, device = network.training, next(network.parameters()).device
    network.cpu().eval()
    try:
        with exact():
            return torch.cat([network(image[None]) for image in fixed_inputs(spec, side_px)])
    finally:
        network.to(device).train(was_training)


def environment() -> dict[str, str]:
    """Return what the last bits of a convolution depend on: torch, and the processor as a digest."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line for line in lines if line.startswith("model name")), "")
    except OSError:
        model = platform.processor()
    processor = f"{platform.machine()} {model}"
    return {
        "torch": str(torch.__version__),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processor": hashlib.sha256(processor.encode()).hexdigest()[:16],
    }


def verify(bank: Bank) -> tuple[Finding, ...]:
    """Prove that every byte is as it was stored and that every task still makes the same images.

    Outputs are compared bit for bit where torch and the processor are those of the time when the task was
    finished, else within `TOLERANCE`.

    Returns:
        What was found; nothing if the bank is whole.
    """
    found = list(bank.inspect())
    touched = {finding.task for finding in found}
    for task in bank.tasks:
        # Without sound bytes, images of other values say nothing more.
        if not touched and (finding := _verify_outputs(bank, task)):
            found.append(finding)
    return tuple(found)


def _verify_outputs(bank: Bank, task: Task) -> Finding | None:
    now = fixed_outputs(load_task(bank, task.name), bank.spec, task.outputs.size_px)
    if tensor_sha256(now) == task.outputs.sha256:
        return None
    stored = bank.task_tensors(task)[OUTPUTS]
    difference = float((now - stored).abs().max())
    if task.outputs.environment != environment() and difference <= TOLERANCE:
        return None
    return Finding(
        task.file, OUTPUTS, task.name, f"its images differ by {difference:.2g} from the stored ones"
    )
