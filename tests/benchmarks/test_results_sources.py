"""Results name the sources they were measured with, and pages say which of them were trained anew since."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graftgan.contract import digest_file
from scripts import loaded

ROOT = Path(__file__).parents[2]
ZOO = {
    "transfer": "catalogue",
    "selection": "catalogue",
    "methods": "catalogue",
    "methods-biggan": "classes",
    "methods-residual": "residual",
    "classes": "classes",
}
PAGES = {
    "transfer": "README.md",
    "selection": "docs/studies.md",
    "methods": "docs/methods.md",
    "methods-biggan": "docs/methods.md",
    "methods-residual": "docs/methods.md",
    "classes": "docs/classes.md",
}


def earlier(result: str) -> set[str]:
    """The sources of a result that the zoo has no more as they were."""
    record = json.loads((ROOT / "benchmarks" / "results" / f"{result}.json").read_text())
    today = loaded("transfer").digests(ROOT / "zoo" / f"{ZOO[result]}.yaml")
    return {name for name, sha256 in record["sources"].items() if today.get(name) != sha256}


@pytest.mark.parametrize("result", ZOO)
def test_a_page_says_which_of_its_sources_were_trained_anew_since(result: str) -> None:
    text = (ROOT / PAGES[result]).read_text()
    for name in earlier(result):
        assert f"an earlier `{name}`" in text, f"{PAGES[result]} shows {result}.json, whose {name} is another"


@pytest.mark.parametrize("file", sorted(set(ZOO.values())))
def test_digests_are_those_of_the_files(file: str) -> None:
    for name, sha256 in loaded("transfer").digests(ROOT / "zoo" / f"{file}.yaml").items():
        assert digest_file(ROOT / "zoo" / name / "gan.safetensors") == sha256
