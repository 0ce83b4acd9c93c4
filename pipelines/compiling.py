"""Compiles a pipeline, compares it with what is checked in, and runs it here."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler, local
from kfp.components import load_component_from_file

from graftgan.errors import ConfigError
from pipelines.profiles import USER, WRITABLE


def compile_to(pipeline: Any, path: Path) -> None:
    """Write a compiled pipeline to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(pipeline, str(path))


def same_as_fresh(pipeline: Any, path: Path) -> bool:
    """Return whether `path` holds what a fresh compile gives, compared as parsed YAML."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "fresh.yaml"
        compile_to(pipeline, fresh)
        texts = [p.read_text(encoding="utf-8") if p.exists() else "" for p in (path, fresh)]
    checked_in, compiled = ([*yaml.safe_load_all(text)] for text in texts)
    return checked_in == compiled


def compile_or_check(pipeline: Any, path: Path, check: bool, remedy: str) -> int:
    """Write `path`, or compare it with a fresh compile; returns the exit code."""
    if not check:
        compile_to(pipeline, path)
        return 0
    if same_as_fresh(pipeline, path):
        return 0
    print(f"{path} is stale\n  fix: {remedy}", file=sys.stderr)
    return 1


def add_run_options(parser: argparse.ArgumentParser, compiled: Path, root: str) -> None:
    """Add the options of executing a compiled pipeline here."""
    parser.add_argument("--pipeline", type=Path, default=compiled, help="the compiled YAML")
    parser.add_argument("--root", type=Path, default=Path(root), help="folder for the artifacts")
    parser.add_argument(
        "--docker",
        action="store_true",
        help="each task in a container of its image, without root, network or other folders than --root",
    )


def run(compiled: Path, arguments: Mapping[str, Any], root: Path, docker: bool = False) -> None:
    """Execute a compiled pipeline with kfp's local runner; artifacts go below `root/RUN`.

    Args:
        compiled: The pipeline.
        arguments: Its parameters.
        root: Folder for artifacts, the only one of this machine that containers see.
        docker: Whether each task is a container of its image, as `hardening` tells, and no process.

    Raises:
        RuntimeError: If a task fails.
        ConfigError: If containers are wanted and no Docker Engine answers.
    """
    if not docker:
        _execute(local.SubprocessRunner(use_venv=False), compiled, arguments, root)
        return
    _require_engine()
    root.mkdir(parents=True, exist_ok=True)
    # Containers have group 0, or the user's own number: what kfp makes here, they must be able to fill.
    root.chmod(root.stat().st_mode | 0o070)
    before = os.umask(0o002)
    try:
        _execute(local.DockerRunner(**hardening()), compiled, arguments, root)
    finally:
        os.umask(before)


def _execute(runner: Any, compiled: Path, arguments: Mapping[str, Any], root: Path) -> None:
    local.init(runner=runner, pipeline_root=str(root), raise_on_error=True)
    load_component_from_file(str(compiled))(**arguments)


def hardening() -> dict[str, Any]:
    """Return how each container runs: no root, no writable root file system, no network, no capabilities."""
    user = os.getuid() or USER
    home = WRITABLE["home"]
    return {
        "user": f"{user}:0",
        "read_only": True,
        "network_mode": "none",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": 512,
        "tmpfs": {WRITABLE["tmp"]: "mode=1777", home: f"uid={user},gid=0,mode=0770"},
        "environment": {"GRAFTGAN_HOME": f"{home}/.graftgan", "OMP_NUM_THREADS": "1"},
    }


def _require_engine() -> None:
    import docker

    try:
        client = docker.from_env()
        components = client.version().get("Components", [])
        client.close()
    except docker.errors.DockerException as error:
        raise ConfigError(f"no Docker Engine answers: {error}", "start one, or set DOCKER_HOST") from None
    # kfp takes a container that podman removed at once for one that did its work.
    if any("podman" in str(component.get("Name", "")).lower() for component in components):
        raise ConfigError("podman answers, with which failed tasks look done", "use a Docker Engine")
