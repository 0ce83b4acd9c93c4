from __future__ import annotations

import pytest
import torch
from torch import nn

from graftgan.transfer.recording import outputs_of


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def test_outputs_are_those_of_the_modules_in_the_order_of_the_names() -> None:
    net, x = network().eval(), torch.ones(4, 2)
    last, first = outputs_of(net, ["2", "0"], lambda: net(x))
    assert torch.equal(first, net[0](x))
    assert torch.equal(last, net(x))


def test_nothing_is_left_behind_even_after_a_failure() -> None:
    net, x = network().train(), torch.rand(4, 2)
    net[1].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    outputs_of(net, ["0"], lambda: net(x))

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        outputs_of(net, ["0"], fail)
    assert [module.training for module in net] == [True, False, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not net[0]._forward_hooks
