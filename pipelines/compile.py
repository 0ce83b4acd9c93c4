"""Compiles pipelines for a profile: `python -m pipelines.compile [NAME ...]`; `--check` compares instead."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from graftgan.errors import ConfigError, GraftganError
from pipelines.base import NAMES, add_compile_options, compile_or_check, fail


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile or check the named pipelines, by default all; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.compile", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; all by default")
    add_compile_options(parser)
    options = parser.parse_args(arguments)
    names = options.names or NAMES
    try:
        if options.output and len(names) > 1:
            raise ConfigError("--output is one file", f"name one pipeline: {', '.join(names)}")
        return max(compile_or_check(name, options) for name in names)
    except GraftganError as error:
        return fail(error)


if __name__ == "__main__":
    sys.exit(main())
