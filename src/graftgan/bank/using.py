"""What people do with a task of a bank: translate images, and take it out as a file of its own."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from graftgan.bank.store import Bank
from graftgan.bank.tasks import exact, fixed_inputs, load_task
from graftgan.checkpoints.export import OPSET, PACKAGES, TOLERANCE
from graftgan.checkpoints.writers_translation import PREFIX, write_translation
from graftgan.contract import atomic_path
from graftgan.data.decoding import BadImageError, DecodeOptions, decode
from graftgan.errors import CheckpointError, ConfigError, DataError, MissingInput
from graftgan.gans.base import to_uint8

FORMATS = ("cyclegan", "onnx")
WHITE = "#ffffff"
MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 200_000_000


def translate_files(
    bank: Bank, name: str, images: Sequence[Path], folder: Path, size_px: int = 0
) -> tuple[Path, ...]:
    """Translate image files by a task and write each as a PNG of the same stem.

    Args:
        bank: The bank.
        name: The task.
        images: Files of any accepted format; their middle square is translated, as in training.
        folder: Where the PNGs go; it is made.
        size_px: Side of the square; 0 takes that of the task's fixed inputs.

    Raises:
        MissingInput: The task or a file does not exist.
        ConfigError: Two files have one stem, or the side is none that the network takes.
        DataError: A file is no image that can be read.
        CheckpointError: A file of the bank is damaged.
    """
    if len({image.stem for image in images}) != len(images):
        raise ConfigError(
            "two of the images have one name without suffix", "translate them one after another"
        )
    task = bank.task(name)
    side = size_px or task.outputs.size_px
    _check_side(bank, side)
    network = load_task(bank, name)
    options = DecodeOptions(
        side, bank.spec.in_channels, "crop", "lanczos", task.background or WHITE, MAX_PIXELS, MAX_FILE_BYTES
    )
    written = []
    for image in images:
        pixels = torch.tensor(_read(image, options)).permute(2, 0, 1)[None]
        with exact():
            made = to_uint8(network(pixels.float() / 127.5 - 1))[0]
        folder.mkdir(parents=True, exist_ok=True)
        written.append(folder / f"{image.stem}.png")
        with atomic_path(written[-1]) as temporary:
            Image.fromarray(made[..., 0] if made.shape[-1] == 1 else made).save(temporary, "PNG")
    return tuple(written)


def _check_side(bank: Bank, side: int) -> None:
    step = 2**bank.spec.depth if bank.spec.kind.startswith("unet") else 4
    if side % step:
        raise ConfigError(f"a {bank.spec.kind} takes no images of {side} px", f"use a multiple of {step}")


def _read(path: Path, options: DecodeOptions) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    try:
        return decode(path.read_bytes(), options).pixels
    except FileNotFoundError:
        raise MissingInput(f"{path} does not exist", "correct the path") from None
    except (BadImageError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}", "give an image file") from None


def export_task(bank: Bank, name: str, kind: str, path: Path) -> None:
    """Write a task as a dense network that needs no bank.

    Args:
        bank: The bank.
        name: The task.
        kind: `cyclegan`, the state dict that pix2pix and CycleGAN read, or `onnx`, from ``images`` float32
            [N, in_channels, S, S] to ``translated``, both in [-1, 1], where N is free and S fixed.
        path: File to write; an existing one is replaced.

    Raises:
        ConfigError: The format is unknown, or a package that it needs is absent.
        MissingInput: There is no such task.
        CheckpointError: A file of the bank is damaged, or the ONNX file computes something else.
    """
    if kind not in FORMATS:
        raise ConfigError(f"there is no format {kind!r}", f"use {' or '.join(FORMATS)}")
    network = load_task(bank, name)
    with atomic_path(path) as temporary:
        if kind == "cyclegan":
            state = network.state_dict()
            write_translation({f"{PREFIX}{key}": value for key, value in state.items()}, bank.spec, temporary)
        else:
            _write_onnx(network, bank, bank.task(name).outputs.size_px, temporary)


def _write_onnx(network: nn.Module, bank: Bank, side: int, path: Path) -> None:
    import importlib.util

    if lacking := [package for package in PACKAGES if importlib.util.find_spec(package) is None]:
        raise ConfigError(f"ONNX export needs {' and '.join(lacking)}", "run pip install 'graftgan[export]'")
    import onnxruntime

    images = fixed_inputs(bank.spec, side)
    with warnings.catch_warnings(), exact():
        warnings.simplefilter("ignore")
        expected = network(images)
        # The exporter of torch.export needs onnxscript, a package more.
        torch.onnx.export(
            network,
            (images,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["translated"],
            dynamic_axes={"images": {0: "N"}, "translated": {0: "N"}},
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (1, len(images)):
        made = session.run(["translated"], {"images": images[:count].numpy()})[0]
        deviation = float(np.abs(made - expected[:count].numpy()).max())
        if not deviation <= TOLERANCE:
            raise CheckpointError(
                f"{path.name}: images of the ONNX file deviate by {deviation:.2g}", "export to cyclegan"
            )
