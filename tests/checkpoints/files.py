"""Small checkpoints in public layouts, written as their projects write them."""

from __future__ import annotations

import argparse
import io
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graftgan.checkpoints.store import gan_tensors
from graftgan.gans.base import build
from graftgan.gans.stylegan2 import StyleGAN2Spec

TINY = StyleGAN2Spec(
    resolution=32, z_dim=8, w_dim=8, mapping_layers=3, channel_base=128, channel_max=8, label_layers=2
)
TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0])
KERNEL = torch.outer(TAPS, TAPS) / 64
TRAP = "raise SystemExit('the source in the file was executed')"
State = dict[str, Tensor]


def random_tensors(spec: StyleGAN2Spec = TINY, seed: int = 0) -> State:
    """All three networks with every tensor different from its initial value and from the others."""
    rng = torch.Generator().manual_seed(seed)
    tensors = gan_tensors(build(spec, seed=seed))
    return {name: t + 0.3 * torch.randn(t.shape, generator=rng) for name, t in tensors.items()}


def part(tensors: Mapping[str, Tensor], network: str) -> State:
    """The tensors of one network, without its name."""
    return {n.removeprefix(f"{network}."): t for n, t in tensors.items() if n.startswith(f"{network}.")}


def generator_filters(spec: StyleGAN2Spec) -> State:
    """The filters that NVIDIA's generator keeps: one a block, one a 3x3 layer."""
    names = []
    for r in spec.block_resolutions:
        layers = ["conv1"] if r == 4 else ["conv0", "conv1"]
        names += [f"synthesis.b{r}", *(f"synthesis.b{r}.{layer}" for layer in layers)]
    return {f"{name}.resample_filter": KERNEL.clone() for name in names}


def discriminator_filters(spec: StyleGAN2Spec) -> State:
    """The filters that NVIDIA's discriminator keeps."""
    names = [f"b{spec.resolution}.fromrgb", "b4.conv"]
    for r in spec.block_resolutions[1:]:
        names += [f"b{r}", f"b{r}.conv0", f"b{r}.conv1", f"b{r}.skip"]
    return {f"{name}.resample_filter": KERNEL.clone() for name in names}


def g_kwargs(spec: StyleGAN2Spec, flat: bool = False) -> dict[str, Any]:
    """Arguments of a generator as stylegan2-ada-pytorch nests them, or flat as the StyleGAN3 repository."""
    synthesis = {
        "channel_base": spec.channel_base, "channel_max": spec.channel_max, "num_fp16_res": 4,
        "conv_clamp": 256,
    }  # fmt: skip
    return {
        "c_dim": spec.classes, "img_resolution": spec.resolution, "img_channels": spec.channels,
        "z_dim": spec.z_dim, "w_dim": spec.w_dim, "mapping_kwargs": {"num_layers": spec.mapping_layers},
        **(synthesis if flat else {"synthesis_kwargs": synthesis}),
    }  # fmt: skip


def d_kwargs(spec: StyleGAN2Spec) -> dict[str, Any]:
    """Arguments of a discriminator."""
    return {
        "c_dim": spec.classes, "img_resolution": spec.resolution, "img_channels": spec.channels,
        "channel_base": spec.channel_base, "channel_max": spec.channel_max, "num_fp16_res": 4,
        "conv_clamp": 256, "block_kwargs": {"freeze_layers": 0},
        "mapping_kwargs": {"num_layers": spec.label_layers},
        "epilogue_kwargs": {"mbstd_group_size": spec.mbstd_group},
    }  # fmt: skip


class Persistent:
    """A module that reduces itself as `torch_utils.persistence` does."""

    def __init__(self, class_name: str, kwargs: dict[str, Any]) -> None:
        easy = sys.modules["dnnlib.util"].EasyDict
        self.class_name = class_name
        self.version = 6
        self.kind = "class"
        self.state = dict(nn.Module().__dict__)
        self.state |= {
            "_init_args": (),
            "_init_kwargs": easy(kwargs),
            "block_resolutions": [4, 8],
            "gain": 0.5,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {
            "type": self.kind, "version": self.version, "module_src": TRAP, "class_name": self.class_name,
            "state": self.state,
        }  # fmt: skip
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,), None

    def put(self, name: str, tensor: Tensor, buffer: bool) -> None:
        """Set a tensor by its dotted name, making the modules on its way."""
        head, _, rest = name.partition(".")
        if rest:
            child = self.state["_modules"].setdefault(head, Persistent("Layer", {}))
            child.put(rest, tensor, buffer)
        elif buffer:
            self.state["_buffers"][head] = tensor
        else:
            self.state["_parameters"][head] = nn.Parameter(tensor)


@contextmanager
def nvidia_modules() -> Iterator[None]:
    """Have the modules that the pickles name, while writing them only."""

    class EasyDict(dict[str, Any]):
        pass

    def _reconstruct_persistent_obj(meta: Any) -> Any:
        raise AssertionError("the stock loader was called")

    made = {
        name: types.ModuleType(name)
        for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
    }
    for module, item in (("torch_utils.persistence", _reconstruct_persistent_obj), ("dnnlib.util", EasyDict)):
        item.__module__, item.__qualname__ = module, item.__name__
        setattr(made[module], item.__name__, item)
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


BUFFERS = ("w_avg", "noise_const", "resample_filter")


def module(state: State, class_name: str, kwargs: dict[str, Any], frozen: tuple[str, ...] = ()) -> Persistent:
    """A network made of nested modules; call within `nvidia_modules`."""
    top = Persistent(class_name, kwargs)
    for name, tensor in state.items():
        buffer = name.rpartition(".")[2] in BUFFERS or name.startswith(frozen or ("\0",))
        top.put(name, tensor, buffer)
    return top


def nvidia_pickle(
    tensors: State,
    spec: StyleGAN2Spec = TINY,
    protocol: int = 4,
    networks: tuple[str, ...] = ("G", "D", "G_ema"),
    flat: bool = False,
    frozen: tuple[str, ...] = (),
    **changes: Any,
) -> bytes:
    """A network pickle; `changes` are arguments given to the generators and, as `d_...`, to D."""
    with nvidia_modules():
        tree: dict[str, Any] = {}
        d_changes = {key[2:]: value for key, value in changes.items() if key.startswith("d_")}
        g_changes = {key: value for key, value in changes.items() if not key.startswith("d_")}
        for name in networks:
            ours = {"G": "generator", "D": "discriminator", "G_ema": "generator_ema"}[name]
            state = part(tensors, ours)
            if name == "D":
                state |= discriminator_filters(spec)
                tree[name] = module(state, "Discriminator", d_kwargs(spec) | d_changes, frozen)
            else:
                state |= generator_filters(spec)
                tree[name] = module(state, "Generator", g_kwargs(spec, flat) | g_changes)
        tree |= {"augment_pipe": None, "training_set_kwargs": {"path": "/home/someone/faces.zip"}}
        return pickle.dumps(tree, protocol)


def rosinality_state(generator: State, spec: StyleGAN2Spec = TINY) -> State:
    """A generator in rosinality's names, written from the published table of keys."""
    out: State = {}
    for i in range(spec.mapping_layers):
        out[f"style.{i + 1}.weight"] = generator[f"mapping.fc{i}.weight"]
        out[f"style.{i + 1}.bias"] = generator[f"mapping.fc{i}.bias"]
    out["input.input"] = generator["synthesis.b4.const"][None]
    layers = [("b4.conv1", "conv1")]
    rgbs = [("b4.torgb", "to_rgb1")]
    for j in range(len(spec.block_resolutions) - 1):
        r = 2 ** (j + 3)
        layers += [(f"b{r}.conv0", f"convs.{2 * j}"), (f"b{r}.conv1", f"convs.{2 * j + 1}")]
        rgbs.append((f"b{r}.torgb", f"to_rgbs.{j}"))
        out[f"convs.{2 * j}.conv.blur.kernel"] = KERNEL * 4
        out[f"to_rgbs.{j}.upsample.kernel"] = KERNEL * 4
    for i, (ours, theirs) in enumerate(layers):
        p = f"synthesis.{ours}"
        out[f"{theirs}.conv.weight"] = generator[f"{p}.weight"].unsqueeze(0)
        out[f"{theirs}.conv.modulation.weight"] = generator[f"{p}.affine.weight"]
        out[f"{theirs}.conv.modulation.bias"] = generator[f"{p}.affine.bias"]
        out[f"{theirs}.noise.weight"] = generator[f"{p}.noise_strength"].reshape(1)
        out[f"{theirs}.activate.bias"] = generator[f"{p}.bias"]
        out[f"noises.noise_{i}"] = generator[f"{p}.noise_const"][None, None]
    for ours, theirs in rgbs:
        p = f"synthesis.{ours}"
        out[f"{theirs}.conv.weight"] = generator[f"{p}.weight"].unsqueeze(0)
        out[f"{theirs}.conv.modulation.weight"] = generator[f"{p}.affine.weight"]
        out[f"{theirs}.conv.modulation.bias"] = generator[f"{p}.affine.bias"]
        out[f"{theirs}.bias"] = generator[f"{p}.bias"].reshape(1, -1, 1, 1)
    return out


def rosinality_critic(critic: State, spec: StyleGAN2Spec = TINY) -> State:
    """A discriminator in rosinality's names, written from the published table of keys."""
    out = {
        "convs.0.0.weight": critic[f"b{spec.resolution}.fromrgb.weight"],
        "convs.0.1.bias": critic[f"b{spec.resolution}.fromrgb.bias"],
        "final_conv.0.weight": critic["b4.conv.weight"],
        "final_conv.1.bias": critic["b4.conv.bias"],
        "final_linear.0.weight": critic["b4.fc.weight"],
        "final_linear.0.bias": critic["b4.fc.bias"],
        "final_linear.1.weight": critic["b4.out.weight"],
        "final_linear.1.bias": critic["b4.out.bias"],
    }
    r, i = spec.resolution, 1
    while r > 4:
        out |= {
            f"convs.{i}.conv1.0.weight": critic[f"b{r}.conv0.weight"],
            f"convs.{i}.conv1.1.bias": critic[f"b{r}.conv0.bias"],
            f"convs.{i}.conv2.0.kernel": KERNEL.clone(),
            f"convs.{i}.conv2.1.weight": critic[f"b{r}.conv1.weight"],
            f"convs.{i}.conv2.2.bias": critic[f"b{r}.conv1.bias"],
            f"convs.{i}.skip.0.kernel": KERNEL.clone(),
            f"convs.{i}.skip.1.weight": critic[f"b{r}.skip.weight"],
        }
        r, i = r // 2, i + 1
    return out


def rosinality_tree(tensors: State, spec: StyleGAN2Spec = TINY) -> dict[str, Any]:
    """A training checkpoint of rosinality's, with its Namespace of arguments."""
    return {
        "g": rosinality_state(part(tensors, "generator"), spec),
        "d": rosinality_critic(part(tensors, "discriminator"), spec),
        "g_ema": rosinality_state(part(tensors, "generator_ema"), spec),
        "g_optim": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.002}]},
        "args": argparse.Namespace(size=spec.resolution, channel_multiplier=2, path="faces.lmdb"),
        "ada_aug_p": 0.0,
    }


def saved(tree: Any, legacy: bool = False) -> bytes:
    """What `torch.save` writes."""
    out = io.BytesIO()
    torch.save(tree, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()


def put(path: Path, data: bytes) -> Path:
    """Write a file and return its path."""
    path.write_bytes(data)
    return path


def ordered(state: State) -> OrderedDict[str, Tensor]:
    """A state dict with the attribute that torch gives it."""
    made = OrderedDict(state)
    made._metadata = OrderedDict([("", {"version": 1})])  # type: ignore[attr-defined]
    return made
