"""The papers that go with the shipped image sets: catalogue, notice and contact sheet."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageFont

PREVIEW_COLUMNS = 10
MIXTURE_LICENCE = "CC-BY-4.0 AND CC0-1.0 AND MIT"


def source_package(entry: dict[str, Any], packages: dict[str, str]) -> str:
    """Package and version that an entry of `sets.yaml` is rendered from, `NAME@VERSION`."""
    name = entry.get("package", "@dicebear/collection")
    return f"{name}@{packages[name]}"


def licence_line(sets: dict[str, Any], name: str) -> str:
    """Licence, work and designer of a set, as its parquet file states them."""
    for entry in sets["sets"]:
        if entry["name"] == name:
            return f"{entry['licence']}: {entry['work']} by {entry['designer']}, {entry['link']}"
    return f"{MIXTURE_LICENCE}: {sets['mixture_title']}; each image keeps the licence of its set"


def write_catalogue(
    out: Path, sets: dict[str, Any], packages: dict[str, str], counts: dict[str, int]
) -> None:
    """Writes `catalogue.yaml`: one entry per parquet file with count, licence, size and digest."""
    mixture = {
        "name": "mixture",
        "title": sets["mixture_title"],
        "kind": "mixture",
        "licence": MIXTURE_LICENCE,
        "designer": "the designers of all sources",
        "members": [e["name"] for e in sets["sets"] if e["kind"] == "source"],
    }
    entries = []
    for entry in [*sets["sets"], mixture]:
        path = out / f"{entry['name']}.parquet"
        data = path.read_bytes()
        row = {key: entry[key] for key in ("name", "title", "kind")}
        row |= {"file": path.name, "images": counts[entry["name"]], "size_px": sets["size"]}
        row |= {"licence": entry["licence"], "designer": entry["designer"]}
        row |= (
            {"members": entry["members"]}
            if "members" in entry
            else {"source": source_package(entry, packages)}
        )
        row |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        entries.append(row)
    text = yaml.safe_dump({"sets": entries}, sort_keys=False, allow_unicode=True, width=110)
    (out / "catalogue.yaml").write_text(text, "utf-8")


def write_notice(out: Path, sets: dict[str, Any], packages: dict[str, str]) -> None:
    """Writes `NOTICE.md`: designer, work, package and licence of every set, and what was changed."""
    rows = [
        f"| `{e['name']}` | [{e['work']}]({e['link']}) | {e['designer']} "
        f"| `{source_package(e, packages)}` (npm) | [{e['licence']}](LICENSES/{e['licence']}.txt) |"
        for e in sets["sets"]
    ]
    size, step = sets["size"], sets["level_step"]
    lines = [
        "# Image sets: designers, sources, licences",
        "",
        "| Set | Work | Designer | Package | Licence |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        f"`mixture` holds {sets['mixture_each']} images of every source set (no target); each keeps the "
        "licence of its set, which is the part of its `name` before the slash.",
        "",
        "Changes: the vector drawings were composed from random seeds (avatars) or taken as they are "
        f"(emoji), rendered at {size} x {size} pixels on white, rounded to colour levels that are "
        f"multiples of {step} (off by at most {step // 2} of 255) and stored as lossless WebP; images with "
        "equal pixels were left out, as were emoji flags and hidden second copies. "
        "The designers did not endorse this project or its use of their work.",
        "",
        "`python data/build/build.py` makes the sets again from those packages.",
    ]
    (out / "NOTICE.md").write_text("\n".join(lines) + "\n", "utf-8")


def write_preview(out: Path, images: dict[str, np.ndarray]) -> None:
    """Writes `preview.png`: ten images per set, one row each, with the name of the set."""
    size = next(iter(images.values())).shape[1]
    margin, step = 110, size + 4
    sheet = Image.new("RGB", (margin + PREVIEW_COLUMNS * step, len(images) * step + 4), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for row, (name, pixels) in enumerate(images.items()):
        top = 4 + row * step
        draw.text((6, top + size // 2), name, fill="black", font=font, anchor="lm")
        for column, index in enumerate(np.linspace(0, len(pixels) - 1, PREVIEW_COLUMNS).astype(int)):
            sheet.paste(Image.fromarray(pixels[index]), (margin + column * step, top))
    sheet.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        out / "preview.png", optimize=True
    )
