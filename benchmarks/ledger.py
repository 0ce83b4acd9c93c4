"""The finished runs of a long benchmark, a line each in a CSV file beside its results.

A benchmark of hours can so be done in parts, on one machine or several: what has a line is not run again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from graftgan.contract import canonical_json, digest_text, write_text


@dataclass(frozen=True, order=True)
class Draw:
    """One small image set: a target, how many training images, and the seed that drew them."""

    target: str
    images: int
    seed: int


Runs = dict[tuple[str, Draw], dict[str, Any]]
"""Row of a table and draw -> what was measured."""


@dataclass(frozen=True)
class Ledger:
    """A file of finished runs; lines of another zoo, budget or choice of the source do not count, and go.

    Attributes:
        path: The CSV file; it need not exist.
        sources: Name -> sha256 of each source of the zoo.
        kimg: Budget of a run.
        choose: `rank.choose` of all runs.
    """

    path: Path
    sources: Mapping[str, str]
    kimg: float
    choose: str

    @property
    def terms(self) -> dict[str, Any]:
        """What a line must say for its run to count."""
        zoo = digest_text(canonical_json(dict(self.sources)))[:12]
        return {"zoo": zoo, "kimg": self.kimg, "choose": self.choose}

    def read(self) -> Runs:
        """Return the runs that count."""
        if not self.path.is_file():
            return {}
        # As read by Python itself: a float comes back with the bits that it was written with.
        lines = pd.read_csv(self.path, float_precision="round_trip")
        for column, wanted in self.terms.items():
            lines = lines[lines[column] == wanted]
        found: Runs = {}
        for line in lines.drop(columns=list(self.terms)).to_dict("records"):
            row, draw = line.pop("row"), Draw(line.pop("target"), line.pop("images"), line.pop("seed"))
            found[row, draw] = {k: None if pd.isna(v) else v for k, v in line.items()}
        return found

    def write(self, runs: Runs) -> None:
        """Write all runs, in the order of their draws."""
        lines = [
            {"row": row, **asdict(draw), **self.terms, **run}
            for (row, draw), run in sorted(runs.items(), key=lambda item: (item[0][1], item[0][0]))
        ]
        write_text(self.path, pd.DataFrame(lines).to_csv(index=False))
