"""The registered model: rows of seed, truncation and class in, images out.

MLflow stores this file as text beside the package (weights as safetensors, facts as JSON) and runs it to load
the model. Input columns: `seed` (whole number, needed), `truncation_psi` (0 to 1, optional) and `class`
(optional, only for a model with classes). Output: uint8 [rows, R, R, channels]; over HTTP
(`mlflow models serve`) the same as nested lists. An image depends on its own row only, never on the rest of
the request.

Limits: 64 rows and 12.6 million numbers a request (64 images of 256 px, 4 of 1024 px); whole seeds from 0 to
2**63 - 1; requests draw one at a time, and one that waited and drew for longer than
`GRAFTGAN_SERVING_TIMEOUT_S` (50) stops between two images.
"""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from numpy.typing import NDArray

from graftgan.packages import Package, load_package
from graftgan.serving_limits import MAX_ROWS, in_time, invalid, timeout_s

MAX_VALUES = 64 * 256 * 256 * 3
MAX_SEED = 2**63 - 1


class GraftganModel(PythonModel):
    """A generator behind MLflow's model interface."""

    package: Package

    def load_context(self, context: Any) -> None:
        """Read the weights and facts of the package.

        Raises:
            ConfigError: If the limit of a request's time cannot be used.
        """
        timeout_s()
        self.package = load_package(Path(context.artifacts["package"]))
        self._turn = threading.Lock()

    @property
    def max_rows(self) -> int:
        """Most rows of a request: fewer than 64 for large images."""
        spec = self.package.spec
        return max(1, min(MAX_ROWS, MAX_VALUES // (spec.resolution**2 * spec.channels)))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> NDArray[np.uint8]:
        """Return one image a row, uint8 [rows, R, R, channels].

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE, naming row and column; DEADLINE_EXCEEDED, if it takes
                too long.
        """
        if "seed" not in model_input:
            raise invalid("the column seed is missing")
        if len(model_input) > self.max_rows:
            raise invalid(f"{len(model_input)} rows were sent; at most {self.max_rows} are taken at once")
        rows = [self._row(number, row) for number, row in enumerate(model_input.to_dict("records"))]
        with in_time(self._turn) as check:
            images = []
            for seed, psi, label in rows:
                check()
                images.append(self.package.sample(1, seed, psi, label))
        side, channels = self.package.spec.resolution, self.package.spec.channels
        return np.concatenate(images) if images else np.empty((0, side, side, channels), np.uint8)

    def _row(self, number: int, row: dict[Any, Any]) -> tuple[int, float, int | None]:
        seed = _whole(number, "seed", row["seed"], MAX_SEED)
        given = row.get("truncation_psi")
        psi = self.package.truncation_default if _empty(given) else given
        if not isinstance(psi, int | float | np.number) or isinstance(psi, bool):
            raise invalid(f"row {number}: truncation_psi is {psi!r:.40}; it must be a number")
        if not 0.0 <= psi <= 1.0:
            raise invalid(f"row {number}: truncation_psi is {psi!s:.40}; it must lie between 0 and 1")
        label = row.get("class")
        if _empty(label):
            return seed, float(psi), None
        if not self.package.spec.classes:
            raise invalid(f"row {number}: class is {label!s:.40}, but this model has no classes")
        return seed, float(psi), _whole(number, "class", label, self.package.spec.classes - 1)


def _empty(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _whole(number: int, column: str, value: Any, largest: int) -> int:
    whole = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    # The range comes first: neither NaN nor infinity, which are no `int`, lie in it.
    if not whole or not 0 <= value <= largest or int(value) != value:
        raise invalid(
            f"row {number}: {column} is {value!s:.40}; it must be a whole number from 0 to {largest}"
        )
    return int(value)


set_model(GraftganModel())
