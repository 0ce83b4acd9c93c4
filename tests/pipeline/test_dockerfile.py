"""The promises of the image that can be checked without building it; `make image-test` builds and runs it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from components.base import IMAGE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def instructions() -> list[str]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_no_frontend_is_pulled_and_no_registry_is_named() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert "syntax=" not in text
    assert "://" not in text


def test_every_stage_starts_from_the_base_that_the_builder_chooses(instructions: list[str]) -> None:
    assert [i.split()[1] for i in instructions if i.startswith("FROM")] == ["${BASE_IMAGE}"] * 3
    (base,) = [i for i in instructions if i.startswith("ARG BASE_IMAGE=")]
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert f"python:{wanted.removeprefix('>=')}-" in base


def test_it_runs_as_a_numbered_user_of_group_0_with_no_entrypoint(instructions: list[str]) -> None:
    assert [i for i in instructions if i.startswith("USER")] == ["USER 10001:0"]
    assert not any(i.startswith("ENTRYPOINT") for i in instructions), (
        "a pipeline task gives the whole command"
    )


def test_every_install_is_constrained_or_adds_nothing(instructions: list[str]) -> None:
    installs = [i for i in instructions if "pip install" in i]
    assert len(installs) == 3
    assert all("-c constraints.txt" in i or "--no-deps" in i for i in installs)


def test_the_revision_is_the_last_layer(instructions: list[str]) -> None:
    assert instructions[-1] == "LABEL org.opencontainers.image.revision=$GIT_SHA"
    assert not any("GIT_SHA" in i for i in instructions[:-3])


def test_what_is_copied_is_what_the_build_context_holds(instructions: list[str]) -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied: set[str] = set()
    for instruction in instructions:
        if match := re.match(r"COPY (?!--from)(.*) \S+$", instruction):
            copied |= set(match[1].split())
    assert copied == allowed


def test_the_compiled_image_has_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"graftgan:{version}" == IMAGE
