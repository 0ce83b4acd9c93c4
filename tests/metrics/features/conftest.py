from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graftgan.metrics.features import Extractor, make_extractor
from graftgan.metrics.features.inception import FidInception
from graftgan.metrics.features.weights import INCEPTION_FILES


@pytest.fixture(scope="session")
def efflite() -> Extractor:
    """The quick extractor with its published weights."""
    return make_extractor("efflite0-128")


@pytest.fixture(scope="session")
def random_inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the official one's keys and shapes with random values."""
    torch.manual_seed(0)
    network = FidInception()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    # the published file comes from before norms counted their batches
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    path = tmp_path_factory.mktemp("weights") / INCEPTION_FILES[0]
    torch.save(state, path)
    return path
