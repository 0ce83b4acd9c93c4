"""Makes the picture of the README from a finished `make run`: training images and samples of the runs.

Run it as `python docs/pictures.py [--out out]`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from graftgan.data.dataset import ImageSet
from graftgan.gans.base import sample
from graftgan.reporting.sheets import save_png, sheet
from graftgan.sampling import open_generator

DOCS = Path(__file__).resolve().parent
COLUMNS = 10
CELL_PX = 64


def main() -> None:
    """Draw one row for the training images and one for each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"))
    out = parser.parse_args().out
    data = ImageSet.open(out / "prepare" / "dataset")
    rows, labels = [data.images("train")[:COLUMNS]], ["training images"]
    for name in ("chosen", "worst", "scratch"):
        model = out / "finetune" / "models" / name
        if model.is_dir():
            rows.append(sample(open_generator(model), COLUMNS, seed=0))
            labels.append({"chosen": "recommended source", "worst": "worst source"}.get(name, name))
    save_png(sheet(np.concatenate(rows), COLUMNS, cell_px=CELL_PX, labels=labels), DOCS / "result.png")


if __name__ == "__main__":
    main()
