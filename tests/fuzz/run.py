"""Fuzz a target for some time: `python -m fuzz.run TARGET SECONDS FOLDER`, with `tests` on the path.

Begins with the stored corpus; new inputs that reach new code, and inputs that fail, go to FOLDER. Needs
atheris. The last lines say how many inputs were tried.
"""

from __future__ import annotations

import sys
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
INPUT_TIMEOUT_S = 60
# What packages take by themselves, and reading the largest table that is no bomb: 500 MB each; and half more.
MEMORY_MB = 1536
LONGEST_BYTES = 1 << 16


def main(target: str, seconds: int, folder: Path) -> None:
    """Fuzz; the process ends with 0, or at the first input that fails."""
    import atheris

    ours = (
        "bank", "checkpoints", "contract", "data", "gallery", "reporting", "serving", "serving_bank", "study",
    )  # fmt: skip
    with atheris.instrument_imports(include=[f"graftgan.{name}" for name in ours]):
        import fuzz.others
        import fuzz.pages  # noqa: F401
        from fuzz.targets import TARGETS
    # What is made or imported once would count as the time of the first input.
    TARGETS[target](b"x")
    new = folder / "new"
    new.mkdir(parents=True, exist_ok=True)
    limits = {
        "max_total_time": seconds, "timeout": INPUT_TIMEOUT_S, "rss_limit_mb": MEMORY_MB,
        "max_len": LONGEST_BYTES, "print_final_stats": 1, "artifact_prefix": f"{folder}/",
    }  # fmt: skip
    options = [f"-{name}={value}" for name, value in limits.items()]
    atheris.Setup([sys.argv[0], *options, str(new), str(CORPUS / target)], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
