"""Recognises checkpoints of lucidrains' stylegan2-pytorch and says why they cannot be converted exactly.

Its layers are not those of the StyleGAN2 paper, and no setting of a StyleGAN2's tensors computes the same:

* the 4x4 block has two convolutions, StyleGAN2's has one;
* noise is scaled by one number a feature map, in StyleGAN2 by one number a layer, and all sizes crop the same
  pattern;
* features are enlarged bilinearly with a clamped border before a convolution; StyleGAN2 convolves first and
  pads with zeros, which differs along the border;
* its discriminator halves sizes by convolutions with stride 2 and a bias, and has no minibatch standard
  deviation.
"""

from __future__ import annotations

from typing import NoReturn

from torch import Tensor

from graftgan.checkpoints.imported import Content, refuse

STYLE = "G.blocks.0.to_style1.weight"
MAPPING = "S.net.0.weight"
REASONS = (
    ("G.blocks.0.conv2.weight", "is a second convolution at 4x4 px, where StyleGAN2 has one"),
    (
        "G.blocks.0.to_noise1.weight",
        "scales noise by a number for each feature map, where StyleGAN2 has one for the layer",
    ),
    ("G.initial_conv.weight", "convolves the learnt constant, which StyleGAN2 does not"),
    ("G.to_initial_block.weight", "makes the 4x4 block from the style, where StyleGAN2 has a constant"),
    ("D.blocks.0.conv_res.bias", "adds a bias to the shortcut, which StyleGAN2 does not"),
    ("D.to_logit.weight", "reads features without their minibatch standard deviation"),
)
"""Name of a tensor -> what it does that a StyleGAN2 cannot."""


def matches(content: Content) -> bool:
    """Tell whether the file is a state dict of such a GAN, alone or under the key ``GAN``."""
    return STYLE in (state := _state(content)) and MAPPING in state


def read(content: Content) -> NoReturn:
    """Refuse the file.

    Raises:
        CheckpointError: Always, with the tensors that stand in the way.
    """
    state = _state(content)
    found = [_clause(state, name, why) for name, why in REASONS if name in state]
    why = "is a checkpoint of lucidrains/stylegan2-pytorch, which computes other images than StyleGAN2 would"
    always = "features are enlarged bilinearly before a convolution, with another border than StyleGAN2's"
    raise refuse(content.path, f"{why}: {'; '.join([*found, always])}", list(state))


def _state(content: Content) -> dict[str, object]:
    tree = content.tree
    if isinstance(tree, dict) and isinstance(tree.get("GAN"), dict):
        tree = tree["GAN"]
    return {str(name): value for name, value in tree.items()} if isinstance(tree, dict) else {}


def _clause(state: dict[str, object], name: str, why: str) -> str:
    value = state[name]
    shape = f" {list(value.shape)}" if isinstance(value, Tensor) else ""
    return f"`{name}`{shape} {why}"
