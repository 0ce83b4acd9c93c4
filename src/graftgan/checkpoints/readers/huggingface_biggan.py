"""Reads `pytorch-pretrained-BigGAN` state dicts: BigGAN-deep generators, with `config.json` or without."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from graftgan.checkpoints.imported import Content, Imported, refuse
from graftgan.checkpoints.readers.biggan import FOLDER, PREFIX, copy_generator, expect, state_of
from graftgan.errors import ConfigError
from graftgan.gans.biggan.spec import ATTENTION_DIVISOR
from graftgan.gans.biggan_deep import BigGANDeepGenerator, BigGANDeepSpec
from graftgan.gans.biggan_deep.spec import PUBLISHED_LAYERS, STEM_WIDTH, Layer

FORMAT = "huggingface_biggan"
REQUIRED = ("embeddings.weight", "generator.gen_z.weight_orig", "generator.bn.running_means")
CONFIG = "config.json"
CONFIG_KEYS = {
    "output_dim": "resolution",
    "z_dim": "z_dim",
    "class_embed_dim": "class_embed_dim",
    "channel_width": "channel_width",
    "num_classes": "classes",
    "attention_layer_position": "attention_layer_position",
    "n_stats": "n_stats",
}
"""Key of the published config -> field of our spec that the shapes determine too."""
Shapes = Mapping[str, tuple[int, ...]]


def matches(content: Content) -> bool:
    """Tell whether the file, or one in the folder, is a generator of this project."""
    return _part(content) is not None


def read(content: Content) -> Imported:
    """Convert the generator; what shapes do not tell comes from the config, else from the published sizes.

    Raises:
        CheckpointError: A tensor is missing, unknown or of the wrong shape, the config contradicts the
            shapes, or neither says which blocks double the size.
    """
    path, found, config = content.path, _part(content), _config(content)
    if found is None:
        raise refuse(path, "holds no BigGAN-deep generator")
    origin, part = found
    state = state_of(path, origin, part)
    spec = _spec(path, {name: tuple(t.shape) for name, t in state.items()}, config)
    with torch.device("meta"):
        network = BigGANDeepGenerator(spec)
    expect(path, origin, state, network)
    tensors = {f"generator_ema.{name}": tensor for name, tensor in state.items()}
    names = content.tree if content.container == FOLDER else ()
    return Imported(
        format=FORMAT,
        spec=spec,
        tensors=tensors,
        skipped={str(name): "no network" for name in names if str(name) not in {origin, CONFIG}},
        made=copy_generator(tensors),
        absent=("discriminator",),
        notes=_notes(spec, config),
    )


def _part(content: Content) -> tuple[str, dict[str, Any]] | None:
    """Return the name of the state dict's file ("" if it is the only one) and the state dict."""
    if not isinstance(content.tree, dict):
        return None
    parts = content.tree if content.container == FOLDER else {"": content.tree}
    for name, part in parts.items():
        if isinstance(part, dict):
            names = {str(key).removeprefix(PREFIX) for key in part}
            if all(key in names for key in REQUIRED):
                return str(name), part
    return None


def _config(content: Content) -> Mapping[str, Any]:
    if content.config or content.container != FOLDER:
        return content.config
    config = content.tree.get(CONFIG)
    return config if isinstance(config, dict) else {}


def _spec(path: Path, shapes: Shapes, config: Mapping[str, Any]) -> BigGANDeepSpec:
    try:
        sizes = _sizes(path, shapes, config)
        for key, name in CONFIG_KEYS.items():
            if key in config and config[key] != sizes[name]:
                raise refuse(path, f"the config's {key} is {config[key]}, the tensors say {sizes[name]}")
        return BigGANDeepSpec.from_sizes(sizes)
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError) as error:
        raise refuse(path, f"has no layout of BigGAN-deep ({error!r})", list(shapes)) from error
    except ConfigError as error:
        raise refuse(path, f"describes a network that cannot be built: {error.message}") from error


def _sizes(path: Path, shapes: Shapes, config: Mapping[str, Any]) -> dict[str, Any]:
    class_embed_dim, classes = shapes["embeddings.weight"]
    rows, condition = shapes["generator.gen_z.weight_orig"]
    width = rows // (16 * STEM_WIDTH)
    layers = _layers(path, shapes, width, config)
    resolution = 4 * 2 ** sum(up for up, _, _ in layers)
    d_ch = max(1, width * 3 // 4)
    return {
        "resolution": resolution,
        "z_dim": condition - class_embed_dim,
        "classes": classes,
        "class_embed_dim": class_embed_dim,
        "channel_width": width,
        "layers": () if PUBLISHED_LAYERS.get(resolution) == layers else layers,
        "attention_layer_position": _attention(shapes),
        "n_stats": shapes["generator.bn.running_means"][0],
        "d_ch": d_ch,
        "d_attn": [64] if d_ch >= ATTENTION_DIVISOR else [],
        **({"bn_eps": config["eps"], "sn_eps": config["eps"]} if "eps" in config else {}),
    }


def _attention(shapes: Shapes) -> int:
    (position,) = (
        int(name.split(".")[2])
        for name in shapes
        if name.startswith("generator.layers.") and name.endswith(".gamma")
    )
    return position


def _layers(path: Path, shapes: Shapes, width: int, config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """Return the blocks: widths by the tensors, and which double the size by config or published layout."""
    if config.get("layers"):
        return tuple((bool(up), int(inner), int(out)) for up, inner, out in config["layers"])
    widths, j = [], 0
    while f"generator.layers.{j}.gamma" in shapes or f"generator.layers.{j}.conv_3.bias" in shapes:
        stem = f"generator.layers.{j}"
        if f"{stem}.gamma" not in shapes:
            inner, out = shapes[f"{stem}.bn_0.running_means"][1], shapes[f"{stem}.conv_3.bias"][0]
            widths.append((inner // width, out // width))
        j += 1
    for layers in PUBLISHED_LAYERS.values():
        if [(inner, out) for _, inner, out in layers] == widths:
            return layers
    raise refuse(path, f"has blocks of widths {widths}, which no published model has: put {CONFIG} beside it")


def _notes(spec: BigGANDeepSpec, config: Mapping[str, Any]) -> tuple[str, ...]:
    notes = [
        'Statistics between the stored truncations are interpolated; `lookup: "published"` in the spec '
        "repeats the published code, which reads another row at 0.14, 0.28, 0.56, 0.58 and 0.94."
    ]
    if "eps" not in config:
        notes.append(f"There is no config: eps is {spec.bn_eps:g}, as in the published models.")
    return tuple(notes)
