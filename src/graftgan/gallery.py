"""One HTML page of pictures from a registered model; nothing in it is loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from graftgan.bank.package import is_bank
from graftgan.contract import read_json, write_text
from graftgan.errors import ConfigError
from graftgan.packages import CARD, FACTS, Package, load_package
from graftgan.reporting.sheets import png_bytes

MAX_PICTURES = 1024
MAX_TRUNCATIONS = 8
SHOWN_CLASSES = 8
LEAST_SIDE_PX = 96


def parse_truncations(text: str) -> list[float]:
    """Return the truncations that `1,0.7` names.

    Raises:
        ConfigError: If one is no number from 0 to 1, or there are more than eight.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or len(found) > MAX_TRUNCATIONS or not all(0.0 <= psi <= 1.0 for psi in found):
        raise ConfigError(f"--psi {text!r} is not a list of truncations", "write 1 or 1,0.7,0.5, each 0 to 1")
    return found


def write_gallery(
    folder: Path, title: str, seeds: Sequence[int], truncations: Sequence[float], out: Path
) -> None:
    """Write the page.

    Args:
        folder: The package.
        title: What the page calls the model.
        seeds: One picture each, at every truncation and of each of the first eight classes, if there are any.
        truncations: One section each.
        out: The file.

    Raises:
        ConfigError: If that would be more than 1,024 pictures, or the package is a bank's.
        CheckpointError: If the package is damaged.
    """
    if is_bank(read_json(folder / FACTS)):
        raise ConfigError(f"{title} is a bank of tasks, which translate images", "use `graftgan tasks run`")
    package = load_package(folder)
    names = list(package.facts.get("classes") or []) if package.spec.classes else []
    labels: list[int | None] = list(range(min(package.spec.classes, SHOWN_CLASSES))) or [None]
    if (many := len(seeds) * len(truncations) * len(labels)) > MAX_PICTURES:
        raise ConfigError(f"the page would hold {many} pictures, more than {MAX_PICTURES}", "ask for fewer")
    sections = [
        {
            "title": f"truncation {psi:g}" + (f", {_class_name(names, label)}" if label is not None else ""),
            "pictures": [_picture(package, seed, psi, label) for seed in seeds],
        }
        for psi in truncations
        for label in labels
    ]
    card = folder / CARD
    side_px = max(package.spec.resolution, LEAST_SIDE_PX)
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    write_text(out, gallery_page(title, package.facts, sections, side_px, text))


def gallery_page(
    title: str, facts: Mapping[str, Any], sections: Sequence[Mapping[str, Any]], side_px: int, card: str
) -> str:
    """Return the page.

    Args:
        title: What it calls the model.
        facts: Content of the package's `model.json`.
        sections: Each with a `title`, and `pictures` with the `seed` and the `uri` of each.
        side_px: Width and height of a picture on the page.
        card: The model card, or an empty text.
    """
    environment = Environment(
        loader=PackageLoader("graftgan", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("gallery.html.j2").render(
        title=title,
        sections=sections,
        side_px=side_px,
        facts=_facts(facts),
        scores=facts.get("scores", {}),
        card=card,
    )


def _class_name(names: Sequence[str], label: int) -> str:
    return f"class {label}: {names[label]}" if label < len(names) else f"class {label}"


def _picture(package: Package, seed: int, psi: float, label: int | None) -> dict[str, Any]:
    data = base64.b64encode(png_bytes(package.sample(1, seed, psi, label)[0])).decode()
    return {"seed": seed, "uri": f"data:image/png;base64,{data}"}


def _facts(facts: Mapping[str, Any]) -> dict[str, str]:
    spec, origin = facts["spec"], facts.get("provenance", {})
    told = {
        "network": f"{facts.get('family', spec.get('family'))}, {spec['resolution']} px",
        "method": origin.get("method"),
        "source": origin.get("source"),
        "image set": str(origin.get("dataset") or "")[:12],
    }
    return {name: str(value) for name, value in told.items() if value}
