"""The composition is checked by reading: no container engine is needed."""

from pathlib import Path

import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, object]]:
    """The services of docker-compose.yml."""
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def test_every_setting_named_in_compose_and_dockerfile_exists(services: dict[str, dict[str, object]]) -> None:
    """A misspelt variable would be ignored in silence."""
    import re

    text = (ROOT / "docker-compose.yml").read_text() + (ROOT / "Dockerfile").read_text()
    named = {name.lower() for name in re.findall(r"ESPALIER_([A-Z_]+)", text)}

    assert set() == named - set(Settings.model_fields)


def test_what_is_started_before_it_is_needed_says_when_it_is_healthy(services: dict[str, dict[str, object]]) -> None:
    """Every service that another waits for has a health check."""
    awaited = {name for service in services.values() for name in service.get("depends_on", {})}

    assert {"api", "broker", "database"} == awaited
    assert all("test" in services[name]["healthcheck"] for name in awaited)


def test_builds_name_targets_of_the_dockerfile(services: dict[str, dict[str, object]]) -> None:
    """The api and worker targets are the ones that the Dockerfile defines."""
    stages = {line.split(" AS ")[1] for line in (ROOT / "Dockerfile").read_text().splitlines() if " AS " in line}
    targets = {service["build"]["target"] for service in services.values() if "build" in service}

    assert {"api", "worker"} == targets
    assert targets <= stages
