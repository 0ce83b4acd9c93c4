"""Write the seeds of the stored corpus anew: `python -m fuzz.seeds`, with project and `tests` on the path.

Inputs that a fuzzer found stay; their names do not begin with `seed-`.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fuzz.run import CORPUS
from fuzz.targets import FOLDER_CUT, FOLDER_START
from PIL import Image
from safetensors.torch import save

from tests.security.hostile import calls, huge_lengths, nested_files, opcode_files
from tests.security.hostile_archives import archive_files, other_files
from tests.security.test_hostile_checkpoints import small_files

LARGEST_BYTES = 12_000
EXIF = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06" + bytes(7)
TEXTS = (
    "faces", "\"'><script>alert(1)</script>", "<img src=x onerror=alert(2)>", "{{7*7}}{% raw %}",
    "</style></title>", "a|b\n# head [l](javascript:1) `c` *d* ~~e~~", "``` \n<b>x</b>\n```",
    "<!-- --> ]]> &amp; &#60;", "\u2028\u2029\x00\x1b[31m", "\u202egnp.exe", "C:\\..\\x", "' onmouseover='x",
    "&lt;script&gt;", "![i](x) <http://a.b> http://a.b", "\\`*_{}[]()#+-.!", "1. x", "- x", "====",
)  # fmt: skip


def checkpoints() -> dict[str, bytes]:
    """Good and hostile checkpoints of every container."""
    hostile = opcode_files() | nested_files() | archive_files() | other_files()
    found = small_files() | {name: data for name, (data, _) in hostile.items()} | huge_lengths()
    found |= {f"call-{name}": data for name, data in calls(Path("canary")).items()}
    settings = {"input_width": 32, "class_embed_dim": 2, "output_dim": 32, "z_dim": 2, "num_classes": 2}
    tensors = {"embeddings.weight": torch.ones(2, 2), "generator.gen_z.bias": torch.zeros(3)}
    folder = FOLDER_START + json.dumps(settings).encode() + FOLDER_CUT + save(tensors)
    return {
        **found,
        "folder": folder,
        "spec": save({"a": torch.ones(1)}, {"spec": '{"family": "stylegan2"}'}),
    }


def pictures() -> dict[str, bytes]:
    """Small pictures of every format and mode, and archives of them."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (9, 12, 4), dtype=np.uint8)
    colour = Image.fromarray(pixels)
    palette = colour.convert("RGB").quantize(8)
    kinds: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "png": (colour, "PNG", {}),
        "png-grey-16": (Image.fromarray(pixels[..., 0].astype(np.uint16)), "PNG", {}),
        "png-palette": (palette, "PNG", {"transparency": 1}), "gif": (palette, "GIF", {}),
        "jpeg": (colour.convert("RGB"), "JPEG", {"exif": EXIF}),
        "cmyk": (colour.convert("CMYK"), "JPEG", {}), "bmp": (colour.convert("RGB"), "BMP", {}),
        "tiff": (colour, "TIFF", {"compression": "tiff_lzw"}), "webp": (colour, "WEBP", {}),
        "ppm": (colour.convert("RGB"), "PPM", {}), "jp2": (colour.convert("RGB"), "JPEG2000", {}),
        "tiff-float": (Image.fromarray(pixels[..., 0].astype(np.float32)), "TIFF", {}),
    }  # fmt: skip
    found = {}
    for name, (image, kind, how) in kinds.items():
        file = io.BytesIO()
        image.save(file, kind, **how)
        found[name] = file.getvalue()
    return found


def image_sets(found: dict[str, bytes]) -> dict[str, bytes]:
    """Archives and tables of pictures."""
    from tests.security.assembler import zipped

    labels = json.dumps({"labels": [["a/0.png", 1], ["a/1.jpg", 0]]}).encode()
    table = pa.table({
        "image": [found["png"], b"", found["jpeg"]], "name": ["a", "b", "c"], "label": [0, 1, -1],
        "group": ["g", None, "h"],
    })  # fmt: skip
    names = {
        "huggingface": json.dumps({"info": {"features": {"label": {"names": ["x", "y"]}}}}),
        "licence": "CC0-1.0",
    }
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(names), file, compression="none")
    return {
        "zip": zipped(
            {"a/0.png": found["png"], "a/1.jpg": found["jpeg"], "dataset.json": labels, "LICENSE": b"CC0"}
        ),
        "zip-odd": zipped({"a\n<b>/\xe9.png": found["gif"], "../x.png": b"", "x.txt": b"x"}),
        "parquet": file.getvalue(),
    }


def main() -> None:
    """Write all seeds."""
    images = pictures()
    images |= image_sets(images)
    seeds = {
        "checkpoint": checkpoints(),
        "images": {name: bytes([number]) + data for number, (name, data) in enumerate(images.items())},
        "report": {f"text-{number}": text.encode() for number, text in enumerate(TEXTS)},
    }
    seeds["pages"] = seeds["report"]
    for target, inputs in seeds.items():
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        for old in (CORPUS / target).glob("seed-*"):
            old.unlink()
        for name, data in inputs.items():
            if len(data) <= LARGEST_BYTES:
                plain = "".join(sign if sign.isalnum() else "-" for sign in name)
                (CORPUS / target / f"seed-{plain}").write_bytes(data)


if __name__ == "__main__":
    main()
