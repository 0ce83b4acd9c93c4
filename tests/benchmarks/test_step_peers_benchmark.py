"""`benchmarks/step.py` beside a peer: a checkout with the public interface, made of our own networks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts import loaded

step: Any = loaded("step")
variants: Any = loaded("step_variants")
equal: Any = loaded("step_equal")
peers: Any = loaded("step_peers")
TINY = peers.Setting("tiny", 128, 8, batch=4, r1_interval=2, latent=8, mapping_layers=1)
NETWORKS = """
from graftgan.gans.base import build
from graftgan.gans.stylegan2 import StyleGAN2Spec


def _gan(resolution, widths, latent=8, layers=1):
    return build(
        StyleGAN2Spec(
            resolution=resolution, z_dim=latent, w_dim=latent, mapping_layers=layers,
            channel_base=widths["channel_base"], channel_max=widths["channel_max"],
        ), 5,
    )


def Generator(z_dim, c_dim, w_dim, img_resolution, img_channels, mapping_kwargs, synthesis_kwargs):
    network = _gan(img_resolution, synthesis_kwargs, z_dim, mapping_kwargs["num_layers"]).generator
    ours = network.forward
    network.forward = lambda z, c, noise_mode="random": ours(z, None, 1.0, noise_mode)
    return network


def Discriminator(c_dim, img_resolution, img_channels, **widths):
    network = _gan(img_resolution, widths).discriminator
    ours = network.forward
    network.forward = lambda images, c: ours(images)
    return network
"""
LOSS = """
import torch
from torch.nn.functional import softplus


class StyleGAN2Loss:
    def __init__(self, device, G_mapping, G_synthesis, D, style_mixing_prob, r1_gamma, pl_weight):
        self.mapping, self.synthesis, self.d, self.r1_gamma = G_mapping, G_synthesis, D, r1_gamma

    def accumulate_gradients(self, phase, real_img, real_c, gen_z, gen_c, sync, gain):
        if phase == "Dreg":
            seen = real_img.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.d(seen, real_c).sum(), seen, create_graph=True)
            (slope.square().sum([1, 2, 3]).mean() * (self.r1_gamma / 2 * gain)).backward()
            return
        fakes = self.d(self.synthesis(self.mapping(gen_z)), gen_c)
        if phase == "Gmain":
            softplus(-fakes).mean().backward()
        else:
            (softplus(fakes).mean() + softplus(-self.d(real_img, real_c)).mean()).backward()
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with `training.networks` and `training.loss`, forgotten at the end."""
    package = tmp_path / "training"
    package.mkdir()
    for name, text in {"__init__": "", "networks": NETWORKS, "loss": LOSS}.items():
        (package / f"{name}.py").write_text(text)
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "training"}
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "training"]:
        del sys.modules[name]
    sys.modules.update(kept)


def test_a_peer_that_computes_the_same_is_equal_and_keeps_our_weights(checkout: Path) -> None:
    peer = peers.Ada(TINY, checkout)
    outputs, slopes = equal.check_equal(TINY, peer)
    assert outputs <= 1e-6 and slopes <= 1e-4
    ours = variants.make_gan(TINY)
    for mine, theirs in ((ours.generator, peer.generator), (ours.discriminator, peer.discriminator)):
        for name, tensor in mine.state_dict().items():
            assert torch.equal(tensor, theirs.state_dict()[name]), name
    assert not any(p.requires_grad for p in peer.generator.parameters())


def test_what_is_zero_at_first_is_compared_too(checkout: Path) -> None:
    """A peer that adds no noise is equal at first, since its strength is zero then."""
    peer = peers.Ada(TINY, checkout)
    draw = peer.generator.forward
    peer.generator.forward = lambda z, c, noise_mode: draw(z, c, noise_mode="none")
    gan = variants.make_gan(TINY)
    peer.take_weights(gan.generator, gan.discriminator)
    z = torch.randn(2, TINY.latent)
    with torch.no_grad():
        assert equal.largest_difference(gan.generator(z, None, 1.0, "const"), peer.images(z)) < 1e-6
    with pytest.raises(SystemExit, match="outputs differ"):
        equal.check_equal(TINY, peer)


def test_gradients_of_the_penalty_are_compared(checkout: Path) -> None:
    peer = peers.Ada(TINY, checkout)
    peer.loss.r1_gamma *= 1.01
    with pytest.raises(SystemExit, match="gradients differ"):
        equal.check_equal(TINY, peer)


def test_small_gradients_are_compared_with_a_share_of_the_largest() -> None:
    large, small = torch.full((4,), 10.0), torch.full((4,), 1e-6)
    theirs = {"large": large, "small": small}
    assert equal.gradient_difference({"large": large, "small": 2 * small}, theirs) == pytest.approx(1e-4)
    assert equal.gradient_difference({"large": 1.5 * large, "small": small}, theirs) == pytest.approx(0.5)


def test_a_peer_takes_turns_with_the_default_and_with_new_fakes_alone(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[list[str]] = []
    whole = step.take_turns

    def seen(everybody: dict[str, Any], steps: int, rounds: int) -> Any:
        together.append(list(everybody))
        return whole(everybody, steps, rounds)

    monkeypatch.setattr(step, "take_turns", seen)
    options = step.parse(["--quick", "--peer-path", str(checkout)])
    rows = step.rows_of(TINY, "fp32", options)
    assert together[0] == ["", variants.FRESH.name, step.ADA]
    assert together[1][0] == "" and variants.FRESH.name not in together[1] and step.ADA not in together[1]
    by_name = {row["who"]: row for row in rows}
    assert by_name[step.ADA]["difference"] <= 1e-6 and by_name[step.ADA]["extra_mib"] is None
    assert len(by_name) == len(rows) == 3 + len(together[1]) - 1
    assert "| tiny | NVlabs | fp32 |" in step.page(rows, options)


def test_memory_is_that_of_a_process_of_its_own() -> None:
    options = argparse.Namespace(peer_path=None, rosinality_path=None, threads=1, device=torch.device("cpu"))
    assert 1 < step.memory_mib(step.QUICK, "fp32", options) < 2000


def test_an_absent_device_is_refused_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert step.parse(["--device", "cpu"]).device == torch.device("cpu")
    absent = f"cuda:{torch.cuda.device_count() if torch.cuda.is_available() else 0}"
    for word, told in ((absent, "is not on this machine"), ("tpu", "is not a device")):
        with pytest.raises(SystemExit):
            step.parse(["--device", word])
        assert told in capsys.readouterr().err


def test_full_width_at_256_px_is_for_a_gpu() -> None:
    options = step.parse([])
    assert step.settings_of(options) == step.SETTINGS
    options.device = torch.device("cuda")
    added = step.settings_of(options)[len(step.SETTINGS) :]
    assert {(s.resolution, s.batch, s.channel_max) for s in added} == {(256, 32, 512)}
    options.quick = True
    assert step.settings_of(options) == (step.QUICK,)


def test_rosinality_is_refused_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(step, "pick_device", torch.device)
    with pytest.raises(SystemExit):
        step.parse(["--device", "cuda", "--rosinality-path", str(tmp_path)])
    assert "for a CPU alone" in capsys.readouterr().err
    assert step.parse(["--device", "cuda"]).gemm_side > step.parse([]).gemm_side


def test_the_draw_whose_gradients_differ_least_counts(
    monkeypatch: pytest.MonkeyPatch, checkout: Path
) -> None:
    found = iter([(1e-7, 3e-3), (4e-7, 2e-6), (1e-7, 1e-2), (2e-7, 5e-5)])
    monkeypatch.setattr(equal, "differences_of", lambda *_: next(found))
    assert equal.differences(TINY, peers.Ada(TINY, checkout)) == (4e-7, 2e-6)


def test_a_later_loss_is_given_the_whole_generator(checkout: Path) -> None:
    """As in stylegan3, whose loss takes G, and the images seen in place of a flag of workers."""
    file = checkout / "training" / "loss.py"
    text = file.read_text().replace("G_mapping, G_synthesis", "G").replace("sync, gain", "gain, cur_nimg")
    text = text.replace(
        "self.mapping, self.synthesis, self.d, self.r1_gamma = G,", "self.g, self.d, self.r1_gamma = G,"
    )
    file.write_text(text.replace("self.synthesis(self.mapping(gen_z))", "self.g(gen_z, gen_c)"))
    peer = peers.Ada(TINY, checkout)
    equal.check_equal(TINY, peer)
    before = [parameter.clone() for parameter in peer.generator.parameters()]
    peer.step()
    assert not all(map(torch.equal, before, peer.generator.parameters()))


def test_peers_that_are_not_given_are_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(peers.subprocess, "run", lambda words, check: asked.append(words))
    options = step.parse([])
    step.add_peers(options, tmp_path)
    assert asked[0][-2:] == [str(tmp_path), peers.PACKAGE] and "--no-deps" in asked[0]
    assert step.peers_of(step.SETTINGS[0], options) == (step.ADA,)
    assert step.peers_of(step.SETTINGS[2], options) == (step.ROSINALITY,)
    assert all(peers.PACKAGE in origin for origin in options.origin.values())
    given = step.parse(["--peer-path", "a", "--rosinality-path", "b"])
    step.add_peers(given, tmp_path)
    assert len(asked) == 1 and given.peer_path == Path("a") and "checkout" in given.origin[step.ADA]
