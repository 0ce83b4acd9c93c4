"""A generator as one file that runs without this package, checked against it: ONNX or TorchScript."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from graftgan.errors import CheckpointError, ConfigError
from graftgan.gans.base import Generator, draw_latents
from graftgan.gans.spec import GanSpec

TOLERANCE = 1e-4
"""Largest deviation of a pixel that passes, relative to the largest value among the images."""
PROBES = ((0, 1), (1, 2), (2, 5))
"""(seed, batch) of the latents that an exported file is tried with."""
EXAMPLE_BATCH = 2
OPSET = 17
PACKAGES = ("onnx", "onnxruntime")

Run = Callable[[Tensor, Tensor | None], Tensor]


class Exported(nn.Module):
    """A generator as an exported file computes it: no truncation, constant noise, float32 on the CPU.

    Args:
        generator: Any family's generator; a copy of it is kept, in evaluation mode.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = copy.deepcopy(generator).cpu().float().requires_grad_(False)
        self.eval()

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map ``z`` [N, z_dim] and, where there are classes, ids [N] to images [N, channels, R, R]."""
        images: Tensor = self.generator(z, labels, 1.0, "const")
        return images


def export_onnx(generator: Generator, path: Path) -> float:
    """Write a generator as ONNX, opset 17, and try it with onnxruntime.

    Inputs are ``z`` float32 [N, z_dim] and, for a conditional generator, ``labels`` int64 [N]; the output is
    ``images`` float32 [N, channels, R, R] around [-1, 1]. N is free.

    Args:
        generator: The averaged generator of any family.
        path: File to write; an existing one is replaced.

    Returns:
        The largest deviation from the original that was seen, relative to the largest value.

    Raises:
        ConfigError: onnx or onnxruntime is not installed.
        CheckpointError: The network cannot be written, or the file computes something else; no file is left.
    """
    if lacking := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"ONNX export needs {' and '.join(lacking)}", "run pip install 'graftgan[export]'")
    model = Exported(generator)
    names = ["z", "labels"] if generator.spec.classes else ["z"]
    with _refusing(path, "ONNX"):
        # The exporter of torch.export needs onnxscript, a package more.
        torch.onnx.export(
            model,
            _example(generator.spec),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=names,
            output_names=["images"],
            dynamic_axes={name: {0: "N"} for name in (*names, "images")},
        )
        return _check(model, _onnx_session(path))


def export_torchscript(generator: Generator, path: Path) -> float:
    """Write a generator as a traced TorchScript module, load it again and try it.

    ``torch.jit.load(path)(z)``, or ``(z, labels)`` for a conditional generator, gives the images; shapes are
    those of :func:`export_onnx`.

    Args:
        generator: The averaged generator of any family.
        path: File to write; an existing one is replaced.

    Returns:
        The largest deviation from the original that was seen, relative to the largest value.

    Raises:
        CheckpointError: The network cannot be traced, or the file computes something else; no file is left.
    """
    model = Exported(generator)
    with _refusing(path, "TorchScript"):
        # The tracer's own check runs the example again; ours runs other seeds and batch sizes.
        torch.jit.trace(model, _example(generator.spec), check_trace=False).save(str(path))
        loaded = torch.jit.load(str(path), map_location="cpu")
        return _check(model, lambda z, labels: loaded(z) if labels is None else loaded(z, labels))


@contextmanager
def _refusing(path: Path, kind: str) -> Iterator[None]:
    """Turn any failure into a refusal that leaves no file; keep the exporters' warnings off the screen."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except BaseException as error:
        path.unlink(missing_ok=True)
        if not isinstance(error, Exception):
            raise
        raise CheckpointError(
            f"{path}: {kind} export failed: {_reason(error)}", "export to safetensors"
        ) from error


def _reason(error: Exception) -> str:
    """Return the line of an error that says most: TorchScript's come last, behind a listing of the code."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1] if "TorchScript" in lines[0] else lines[0]


def _latents(spec: GanSpec, seed: int, count: int) -> tuple[Tensor, Tensor | None]:
    return draw_latents(spec, count, torch.Generator().manual_seed(seed))


def _example(spec: GanSpec) -> tuple[Tensor, ...]:
    z, labels = _latents(spec, 0, EXAMPLE_BATCH)
    return (z,) if labels is None else (z, labels)


def _onnx_session(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(z: Tensor, labels: Tensor | None) -> Tensor:
        inputs = {"z": z.numpy()} if labels is None else {"z": z.numpy(), "labels": labels.numpy()}
        return torch.from_numpy(session.run(["images"], inputs)[0])

    return run


def _check(model: Exported, run: Run) -> float:
    """Compare an exported file with its original; return the largest relative deviation.

    Raises:
        ValueError: Images have another shape, are not finite or deviate by more than the tolerance.
    """
    worst = 0.0
    for seed, count in PROBES:
        z, labels = _latents(model.generator.spec, seed, count)
        expected, images = model(z, labels), run(z, labels)
        if images.shape != expected.shape:
            raise ValueError(f"{count} images have shape {list(images.shape)}, not {list(expected.shape)}")
        deviation = float((images - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
        if not deviation <= TOLERANCE:
            raise ValueError(
                f"images of seed {seed} deviate by {deviation:.2g} of the largest value, over {TOLERANCE:g}"
            )
        worst = max(worst, deviation)
    return worst
