"""Rebuilds the shipped image sets: `python data/build/build.py`; needs node and npm.

Installs the pinned packages of `package.json` into a work folder, checks every tarball's sha512 against
`integrity.json`, renders each set with `render.mjs` and writes, one folder up, a parquet file per set
(columns `name`, `group`, `image`), `catalogue.yaml`, `NOTICE.md` and `preview.png`. With the Pillow and
pyarrow of `constraints.txt` the bytes are the same on every run.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from documents import licence_line, write_catalogue, write_notice, write_preview
from PIL import Image

BUILD = Path(__file__).resolve().parent
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")


@dataclass(frozen=True)
class ImageSet:
    """Images of one set in file order: `pixels` is uint8 [N, size, size, 3]."""

    names: list[str]
    groups: list[str]
    pixels: np.ndarray

    def part(self, rows: slice | np.ndarray) -> ImageSet:
        """The images at `rows`."""
        index = np.arange(len(self.names))[rows]
        return ImageSet([self.names[i] for i in index], [self.groups[i] for i in index], self.pixels[index])


def hash_order(names: list[str], salt: str) -> list[str]:
    """The names in an order that is arbitrary but the same everywhere: by sha256 of salt and name."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{salt}/{name}".encode()).digest())


def emoji_groups(names: list[str]) -> dict[str, str]:
    """Maps each emoji name to its base name, without skin tones, so that one figure never straddles a split.

    Twemoji says `artist-dark-skin-tone` (once per person shown), Fluent `artist-dark`. The short form counts
    as a tone only if the base comes in all five, because of names such as `police-car-light`.
    """
    known = set(names)
    groups = {}
    for name in names:
        base = re.sub(r"-(medium-light|medium-dark|medium|light|dark)-skin-tone(?=-|$)", "", name)
        short = re.fullmatch(r"(.+?)-(medium-light|medium-dark|medium|light|dark)", base)
        if short and all(f"{short[1]}-{tone}" in known for tone in TONES):
            base = short[1]
        groups[name] = base
    return groups


def choose_emoji(package: Path, count: int, salt: str) -> tuple[list[str], dict[str, str]]:
    """Chooses emoji names, one of every group first, then further skin tones; flags are left out.

    Only names listed in the categories are used: the rest are hidden second copies under older names.

    Returns:
        About 1.1 times `count` names in hash order of choice (spares for images that turn out equal), and the
        map from name to group.
    """
    categories = json.loads((package / "metadata.json").read_text("utf-8"))["categories"]
    drawn = json.loads((package / "icons.json").read_text("utf-8"))["icons"]
    names = [n for kind, members in categories.items() if kind != "Flags" for n in members if n in drawn]
    groups = emoji_groups(sorted(set(names)))
    members = defaultdict(list)
    for name in hash_order(sorted(groups), salt):
        members[groups[name]].append(name)
    first, rest = [], []
    for group in hash_order(sorted(members), salt):
        ordered = sorted(members[group], key=lambda name: name != group)
        first.append(ordered[0])
        rest.extend(ordered[1:])
    return (first + hash_order(rest, salt))[: count + count // 10], groups


def install(work: Path, record_digests: bool = False) -> None:
    """Installs the pinned packages into `work` and compares every tarball's digest with `integrity.json`.

    Args:
        work: Folder for the packages.
        record_digests: Write `integrity.json` from what was installed (after a deliberate change of a pin).

    Raises:
        SystemExit: a package is not the recorded one.
    """
    for name in ("package.json", "render.mjs"):
        shutil.copy(BUILD / name, work / name)
    subprocess.run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=work, check=True)
    lock = json.loads((work / "package-lock.json").read_text("utf-8"))["packages"]
    found = {
        f"{path.split('node_modules/')[-1]}@{entry['version']}": entry["integrity"]
        for path, entry in lock.items()
        if path
    }
    record = BUILD / "integrity.json"
    if record_digests:
        record.write_text(json.dumps(dict(sorted(found.items())), indent=2) + "\n", "utf-8")
    recorded = json.loads(record.read_text("utf-8"))
    wrong = sorted(key for key, value in found.items() if recorded.get(key) != value)
    if wrong:
        names = ", ".join(wrong)
        raise SystemExit(f"{record}: not the recorded package: {names}. If meant, use --record-digests.")


def make_plan(sets: dict[str, Any], work: Path) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """Writes down what to render: the plan for `render.mjs` and the emoji groups of each set."""
    plan: list[dict[str, Any]] = []
    groups: dict[str, dict[str, str]] = {}
    extra = sets["mixture_each"]
    for entry in sets["sets"]:
        name, is_source = entry["name"], entry["kind"] == "source"
        count = sets["sources_count"] if is_source else sets["targets_count"]
        if "style" in entry:
            plan.append({"name": name, "style": entry["style"], "count": count + extra * is_source})
            continue
        package = work / "node_modules" / entry["package"]
        for part, number in ((name, count), (f"{name}-mixture", extra)):
            names, groups[part] = choose_emoji(package, number, part)
            plan.append({"name": part, "package": entry["package"], "names": names, "count": number})
    return {"size": sets["size"], "step": sets["level_step"], "sets": plan}, groups


def render(plan: dict[str, Any], work: Path) -> None:
    """Renders the plan, two sets at a time."""

    def render_one(entry: dict[str, Any]) -> None:
        path = work / f"plan-{entry['name']}.json"
        path.write_text(json.dumps({**plan, "sets": [entry]}), "utf-8")
        subprocess.run(["node", "render.mjs", str(path), str(work)], cwd=work, check=True)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(render_one, plan["sets"]))


def read_rendered(work: Path, name: str, size: int, groups: dict[str, str] | None) -> ImageSet:
    """Reads what `render.mjs` wrote; the group of an avatar is its seed, which is its name."""
    names = json.loads((work / f"{name}.json").read_text("utf-8"))
    pixels = np.fromfile(work / f"{name}.rgb", np.uint8).reshape(-1, size, size, 3)
    return ImageSet(names, [groups[n] for n in names] if groups else names, pixels)


def assemble(sets: dict[str, Any], work: Path, groups: dict[str, dict[str, str]]) -> dict[str, ImageSet]:
    """Cuts the rendered images into the sets and the mixture, which gets avatars that no other set holds."""
    result, shares = {}, []
    for entry in sets["sets"]:
        name = entry["name"]
        images = read_rendered(work, name, sets["size"], groups.get(name))
        if entry["kind"] == "target":
            result[name] = images
            continue
        count = sets["sources_count"]
        # Emoji are chosen group by group; the file mixes them so that its first rows are like the others.
        order = np.argsort(np.array([hashlib.sha256(n.encode()).hexdigest() for n in images.names[:count]]))
        result[name] = images.part(order) if name in groups else images.part(slice(count))
        share = f"{name}-mixture"
        shares.append(
            read_rendered(work, share, sets["size"], groups[share])
            if share in groups
            else images.part(slice(count, None))
        )
    together = ImageSet(
        [f"{e['name']}/{n}" for e, s in zip(sets["sets"], shares, strict=False) for n in s.names],
        [g for s in shares for g in s.groups],
        np.concatenate([s.pixels for s in shares]),
    )
    order = np.argsort(np.array([hashlib.sha256(n.encode()).hexdigest() for n in together.names]))
    return {**result, "mixture": together.part(order)}


def encode_webp(pixels: np.ndarray) -> bytes:
    """Encodes one uint8 RGB image as lossless WebP and asserts that it decodes to the same pixels."""
    stream = io.BytesIO()
    # For lossless WebP `quality` is effort: 100 takes thirty times as long and saves under 0.1 % here.
    Image.fromarray(pixels).save(stream, "WEBP", lossless=True, quality=75, method=6)
    data = stream.getvalue()
    if not np.array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), pixels):
        raise SystemExit("WebP round trip is not exact.")
    return data


def write_parquet(path: Path, images: ImageSet, licence: str) -> None:
    """Writes columns `name`, `group`, `image` and the metadata `licence`.

    Plain and uncompressed, because WebP bytes do not compress.
    """
    with ThreadPoolExecutor(2) as pool:
        data = list(pool.map(encode_webp, images.pixels))
    schema = pa.schema(
        [
            pa.field("name", pa.string(), nullable=False),
            pa.field("group", pa.string(), nullable=False),
            pa.field("image", pa.binary(), nullable=False),
        ]
    )
    table = pa.table([images.names, images.groups, data], schema=schema)
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False, "store_schema": False}
    with pq.ParquetWriter(path, schema, **plain) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"licence": licence})


def main() -> None:
    """Builds everything into the folder above this one, or into `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=BUILD.parent, help="folder to write (default: data/)")
    parser.add_argument("--work", type=Path, help="keep the packages and the raw renders in this folder")
    parser.add_argument("--record-digests", action="store_true", help="write integrity.json anew")
    arguments = parser.parse_args()
    sets = yaml.safe_load((BUILD / "sets.yaml").read_text("utf-8"))
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        install(work, arguments.record_digests)
        plan, groups = make_plan(sets, work)
        render(plan, work)
        images = assemble(sets, work, groups)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, part in images.items():
        write_parquet(arguments.out / f"{name}.parquet", part, licence_line(sets, name))
        print(
            f"{name}: {len(part.names)} images, {(arguments.out / f'{name}.parquet').stat().st_size:,} bytes"
        )
    packages = json.loads((BUILD / "package.json").read_text("utf-8"))["dependencies"]
    write_catalogue(arguments.out, sets, packages, {name: len(part.names) for name, part in images.items()})
    write_notice(arguments.out, sets, packages)
    write_preview(arguments.out, {name: part.pixels for name, part in images.items()})


if __name__ == "__main__":
    main()
