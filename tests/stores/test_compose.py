"""compose.yaml: its form, its secrets, and its commands, which the test services run as processes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from stores.services import ROOT

TEXT = (ROOT / "compose.yaml").read_text()
SERVICES: dict[str, Any] = yaml.safe_load(TEXT)["services"]


def test_it_is_a_compose_file_and_hangs_together() -> None:
    compose = PyCompose.from_yaml(TEXT)
    compose.validate()
    assert sorted(compose.service_names()) == ["mlflow", "postgres", "store"]
    assert set(SERVICES["mlflow"]["depends_on"]) == {"postgres", "store"}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("interval: 5s", "intervall: 5s"),
        ("interval: 5s", "interval: soon"),
        ("condition: service_healthy", "condition: service_happy"),
        ("127.0.0.1:8333:8333", "127.0.0.1:x:8333"),
        ("restart: unless-stopped", "restart: 3"),
        ("image:", "imagee:"),
    ],
)
def test_the_check_of_the_form_has_teeth(right: str, wrong: str) -> None:
    assert right in TEXT
    with pytest.raises(ValueError):
        PyCompose.from_yaml(TEXT.replace(right, wrong, 1))


def test_no_secret_is_in_it_and_none_has_a_default() -> None:
    wanted = re.findall(r"\$\{(\w+)([^}]*)\}", TEXT)
    assert {name for name, _ in wanted} == {"POSTGRES_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert all(rest.startswith(":?") for _, rest in wanted)
    for service in SERVICES.values():
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|ACCESS_KEY|BACKEND", key):
                assert "${" in str(value), key


def test_everything_is_pinned_and_reached_from_this_machine_only() -> None:
    for name, service in SERVICES.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        if image := service.get("image"):
            assert re.search(r":\d+\.\d+", image), image
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["healthcheck"]["retries"] > 1
    recipe = SERVICES["mlflow"]["build"]["dockerfile_inline"]
    installed = re.findall(r"[\w-]+==([\d.]+)", recipe)
    assert len(installed) == 3 and "USER 10001" in recipe


def test_the_server_of_the_file_has_the_client_s_version() -> None:
    (pinned,) = re.findall(r"^mlflow==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert f"mlflow=={pinned} " in SERVICES["mlflow"]["build"]["dockerfile_inline"]


def test_the_environment_file_is_kept_out_of_git_and_images() -> None:
    for name in (".gitignore", ".dockerignore"):
        lines = (Path(ROOT) / name).read_text().splitlines()
        assert ".env" in lines or "/.env" in lines or "**" in lines or "*" in lines, name
