"""Write the seeds of the stored corpus anew: `python -m fuzz.seeds`, with project and `tests` on the path.

Inputs that a fuzzer found stay; their names do not begin with `seed-`.
"""

from __future__ import annotations

import io
import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fuzz.run import CORPUS
from fuzz.targets import FOLDER_CUT, FOLDER_START, place
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
    return dictionaries(found["png"]) | {
        "zip": zipped(
            {"a/0.png": found["png"], "a/1.jpg": found["jpeg"], "dataset.json": labels, "LICENSE": b"CC0"}
        ),
        "zip-odd": zipped({"a\n<b>/\xe9.png": found["gif"], "../x.png": b"", "x.txt": b"x"}),
        "parquet": file.getvalue(),
    }


def dictionaries(picture: bytes) -> dict[str, bytes]:
    """Tables that name a value, large among them, in more than one row."""
    rows, large = 32, bytes(8 << 20)
    names = pa.array([number % 2 for number in range(rows)], pa.int32())
    images = pa.DictionaryArray.from_arrays(names, pa.array([picture, large], pa.binary()))
    texts = pa.DictionaryArray.from_arrays(names, pa.array(["g", "x" * 500]))
    nested = pa.StructArray.from_arrays([images, texts], ["bytes", "path"])
    found = {}
    for name, table in {
        "parquet-dictionary": pa.table({"image": images, "group": texts, "label": texts}),
        "parquet-dictionary-nested": pa.table({"image": nested}),
    }.items():
        file = io.BytesIO()
        pq.write_table(table, file, store_schema=False, compression="zstd")
        found[name] = file.getvalue()
    return found


def banks() -> dict[str, bytes]:
    """Banks of two made-up layers, whole and damaged."""
    from bank.banks import add_bare, bare

    made = bare(place() / "seeds")
    add_bare(made, "t1")
    values = json.loads((made.folder / "manifest.json").read_bytes())
    del values["sha256"]
    filters = [made.filter_path(layer.name).read_bytes() for layer in made.layers]
    own = (made.folder / made.tasks[0].file).read_bytes()

    def whole(**changed: Any) -> bytes:
        return FOLDER_CUT.join([json.dumps(values | changed).encode(), *filters, own])

    task, layer = values["tasks"][0], values["layers"][0]
    rest = values["layers"][1:]
    good = whole()
    found = {
        "whole": good, "no-task": whole(tasks=[]), "task-twice": whole(tasks=[task, task]),
        "another-format": whole(format=2), "unknown-key": whole(other=1), "no-layers": whole(layers=[]),
        "wide": whole(layers=[layer | {"co": 1 << 40}, *rest]),
        "no-width": whole(layers=[layer | {"k": 0}, *rest]),
        "lambda-of-layers": whole(**{"lambda": {layer["name"]: 0.5}}),
        "lambda-of-nan": whole(lambda_last=float("nan")),
        "huge-spec": whole(spec=values["spec"] | {"width": 1 << 30}), "empty-spec": whole(spec={}),
        "name-of-a-path": whole(tasks=[task | {"name": "../x", "id": "0001-../x"}]),
        "cut-short": good[:-20], "manifest-alone": json.dumps(values).encode(), "empty": b"", "list": b"[]",
    }  # fmt: skip
    return found


def adapters() -> dict[str, bytes]:
    """Adapter files with every field, and with wrong ones."""
    about = {
        "base_sha256": "a" * 64,
        "method": "lora",
        "settings": {"adapter_rank": 2},
        "spec": {"family": "dcgan"},
    }
    tensors = {"a.gamma": torch.full((2, 3), 0.5), "b.beta": torch.arange(4.0)}
    law = {"prior.limit": torch.tensor(0.5, dtype=torch.float64), "prior.z_dim": torch.tensor(8)}

    def file(held: dict[str, torch.Tensor], facts: Any) -> bytes:
        return save(held, {"adapter": json.dumps(facts)})

    good = file(tensors, about)
    wrong = {
        "base_sha256": 1, "method": None, "settings": [], "spec": "", "origin": [], "after": {}, "other": 1,
    }  # fmt: skip
    found = {f"wrong-{key}": file(tensors, about | {key: value}) for key, value in wrong.items()}
    return found | {
        "whole": good,
        "origin": file(tensors, about | {"origin": {"seed": 3, "licence": "CC0-1.0"}, "after": ["b"]}),
        "law": file(tensors | law, about), "law-alone": file(law, about),
        "law-cut": file({"prior.limit": law["prior.limit"]}, about),
        "not-finite": file({"a": torch.tensor([float("nan")])}, about), "list": file(tensors, []),
        "empty": b"", "cut-short": good[:-5], "no-facts": save(tensors),
    }  # fmt: skip


def records() -> dict[str, bytes]:
    """Records of stages and of units, and other JSON."""
    result = {
        "stage": "rank", "config": "c", "code": "d", "inputs": {"i": "e"}, "metrics": {"recall": 0.5},
        "schema": 1,
        "outputs": {"o": {"digest": "f", "bytes": 3}}, "warnings": ["careful"], "status": "done",
    }  # fmt: skip
    changes = [
        {key: value} for key in ("outputs", "schema", "warnings") for value in (None, [], "x", {"o": 1})
    ]
    found = {f"change-{number}": result | change for number, change in enumerate(changes)}
    kinds: dict[str, Any] = {
        "result": result,
        "unit": {"code": "a" * 64, "kid": 0.5},
        "code-list": {"code": [1]},
    }
    texts = {
        "empty": b"",
        "deep": b"[" * 3000,
        "nan": b'{"kid": NaN}',
        "latin": b'"\xe9"',
        "big": b"1" * 5000,
    }
    return {name: json.dumps(value).encode() for name, value in (found | kinds).items()} | texts


def requests(picture: bytes) -> dict[str, bytes]:
    """Rows for served models and banks."""
    row, pair = (
        {"seed": 1, "truncation_psi": 0.5, "class": 1},
        {"task": "day", "image": b64encode(picture).decode()},
    )
    rows = [
        row, pair, row | pair, {"seed": 2**63}, {"seed": -1}, {"seed": "1"}, {"seed": None}, {"seed": 1.5},
        {"seed": []},
        row | {"truncation_psi": "x"}, row | {"truncation_psi": 2}, row | {"truncation_psi": []},
        row | {"class": {}},
        row | {"class": 3}, pair | {"task": ["day"]}, pair | {"task": {}}, pair | {"image": "="},
        pair | {"image": None},
        pair | {"image": "\xe9"}, {"seed": 10**400}, row | {"truncation_psi": 10**400}, {"seed": True},
    ]  # fmt: skip
    found = {f"row-{number}": json.dumps([row]).encode() for number, row in enumerate(rows)}
    return found | {
        "two": json.dumps([row, pair]).encode(),
        "many": json.dumps([row] * 65).encode(),
        "none": b"[]",
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
    seeds |= {"bank": banks(), "adapter": adapters(), "record": records(), "request": requests(images["png"])}
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
