"""What is left by runs with secrets in their environment and in the addresses of their sources."""

from __future__ import annotations

import os
import subprocess
import sys
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkpoints.web import certified, serving
from pipeline.conftest import ROOT, TINY, write_images, write_zoo
from planted import MARK, PLANTED, leaks, left

from graftgan.checkpoints.store import WEIGHTS


class Silent(SimpleHTTPRequestHandler):
    """Serves a folder and says nothing about it."""

    folder = ""

    def __init__(self, *what: Any) -> None:
        super().__init__(*what, directory=self.folder)

    def log_message(self, *words: Any) -> None:
        pass


@pytest.mark.timeout(1200)
def test_what_runs_leave_holds_no_planted_secret(tmp_path: Path) -> None:
    """One run fetches its source by an address with a token, the next gets another file from there."""
    root, away = tmp_path / "project", tmp_path / "away"
    root.mkdir()
    write_images(root / "images.zip", 60)
    write_zoo(away)
    certificate, tls = certified(tmp_path)
    track = {"mode": "journal", "system_metrics": False}
    sections = TINY | {"rank": TINY["rank"] | {"samples": 16, "catalogue": "catalogue.yaml"}, "track": track}
    (root / "params.yaml").write_text(yaml.safe_dump(sections))
    env = dict(os.environ) | PLANTED | {
        "SSL_CERT_FILE": str(certificate), "GRAFTGAN_HOME": str(root / "home"),
        "GRAFTGAN_CACHE": str(root / "cache"), "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip

    def run(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "graftgan", "-v", *words]
        done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    Silent.folder = str(away)
    with serving(tls=tls, kind=Silent) as (address, _):
        (entry,) = yaml.safe_load((away / "catalogue.yaml").read_text())
        place = f"{address}/tiny/{WEIGHTS}"
        entry |= {"path": None, "url": f"{place}?sig={MARK}-signature"}
        (root / "catalogue.yaml").write_text(yaml.safe_dump([entry]))
        outputs = [run("prepare"), run("rank")]
        assert [code for code, _ in outputs] == [0, 0], outputs
        assert f"fetching {place}?***" in outputs[1][1]
        (root / "other.yaml").write_text(yaml.safe_dump([entry | {"sha256": "0" * 64}]))
        outputs.append(run("rank", "--set", "rank.catalogue=other.yaml"))
        assert outputs[2][0] == 5 and f"{place}?*** has sha256" in outputs[2][1], outputs[2]
    outputs.append(run("rank", "--set", f"track=https://somebody:{MARK}@host"))
    assert outputs[3][0] == 2 and "given 'https://host'" in outputs[3][1], outputs[3]
    # The catalogues are the user's own files.
    own = {str(root / name) for name in ("catalogue.yaml", "other.yaml")}
    found = {path: text for path, text in left(root).items() if path not in own}
    assert len(found) > 20
    found |= {f"output {number}": text.encode() for number, (_, text) in enumerate(outputs)}
    assert leaks(found) == []
