from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from graftgan.lifelong_config import TaskData, Translate


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target": "b"}, "either input or make"),
        ({"target": "b", "input": "a", "make": "grey"}, "either input or make"),
        ({"target": "b", "kind": "unpaired"}, "needs input and target"),
        ({"target": "b", "input": "a", "kind": "unpaired", "make": "grey"}, "no make"),
        ({"target": "b", "make": "lowres", "lowres_factor": 3}, "multiple of lowres_factor"),
        ({"target": "b", "make": "grey", "resolution": 62}, "multiple of 4"),
        ({"target": "b", "make": "blur"}, "'edges'"),
        ({"target": "b", "make": "grey", "inputs": "a"}, "Extra inputs"),
        ({"target": "b", "make": "grey", "split": {"test": 0.6, "validation": 0.4}}, "leave no training"),
    ],
)
def test_descriptions_that_cannot_be_read_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TaskData.model_validate(values)


def test_the_recipe_is_that_of_the_papers() -> None:
    recipe = Translate()
    assert (recipe.batch, recipe.lr, recipe.beta1, recipe.lr_decay) == (1, 0.0002, 0.5, 0.5)
    assert (recipe.l1_weight, recipe.cycle_weight, recipe.identity_weight) == (100.0, 10.0, 0.5)
    assert recipe.pool_images == 50 and recipe.ema_half_life_kimg is None
