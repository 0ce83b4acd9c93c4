"""Puts the tables of `benchmarks/results` into the documents that show them.

    python benchmarks/tables.py [--check]

A document asks for `results/NAME.md` by a pair of comments, `<!-- results: NAME -->` and `<!-- end -->`; what
stands between them is replaced. Without such a file there is nothing between them: no number is shown that
no run has written. `--check` changes nothing and fails where a document is not up to date.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from graftgan.contract import write_text

ROOT = Path(__file__).resolve().parent.parent
PLACE = re.compile(r"(<!-- results: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, results: Path) -> str:
    """Return a document with the tables of a folder in their places; headings of a file are left out."""

    def table(place: re.Match[str]) -> str:
        file = results / f"{place['name']}.md"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        body = "\n".join(line for line in lines if not line.startswith("# ")).strip()
        return f"{place[1]}\n{body}\n\n{place[3]}" if body else f"{place[1]}{place[3]}"

    return PLACE.sub(table, text)


def documents(root: Path) -> list[Path]:
    """Return the documents that ask for tables."""
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    return [file for file in pages if PLACE.search(file.read_text("utf-8"))]


def main() -> None:
    """Fill or check all documents."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    stale = []
    for file in documents(ROOT):
        text = file.read_text(encoding="utf-8")
        wanted = filled(text, ROOT / "benchmarks" / "results")
        if wanted != text:
            stale.append(file)
            if not options.check:
                write_text(file, wanted)
    for file in stale:
        print(f"{file.relative_to(ROOT)}: {'is not up to date' if options.check else 'written'}")
    if stale and options.check:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
