"""Settings: from the environment, frozen, with units."""

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Durations are ISO 8601 or seconds, sizes bytes."""
    monkeypatch.setenv("ESPALIER_LEASE_SECONDS", "PT60S")
    monkeypatch.setenv("ESPALIER_HEARTBEAT_SECONDS", "5")
    monkeypatch.setenv("ESPALIER_MAX_MODEL_BYTES", "1000")
    monkeypatch.setenv("ESPALIER_REDIS_URL", "redis://:hunter2@host/0")
    settings = Settings()

    assert (settings.lease_seconds, settings.heartbeat_seconds) == (timedelta(seconds=60), timedelta(seconds=5))
    assert settings.max_model_bytes == 1000
    assert "hunter2" not in repr(settings)


def test_places_follow_the_data_directory(tmp_path: Path) -> None:
    """Unless they are set, database, store and job folders lie in the data directory."""
    settings = Settings(data_dir=tmp_path)

    assert settings.resolved_database_url == f"sqlite:///{tmp_path / 'espalier.sqlite3'}"
    assert (settings.resolved_store_dir, settings.resolved_work_dir) == (tmp_path / "store", tmp_path / "work")
    assert Settings(database_url="postgresql:///x").resolved_database_url == "postgresql:///x"
    assert Settings(store_dir=tmp_path).resolved_store_dir == tmp_path


def test_queues_are_split() -> None:
    """Commas and spaces between names."""
    assert Settings(queues="cpu, gpu-16g,").queue_names == ("cpu", "gpu-16g")


def test_a_lease_outlives_its_heartbeats() -> None:
    """A heartbeat rarer than a third of the lease would requeue healthy jobs."""
    with pytest.raises(ValidationError, match="allowed is a third of"):
        Settings(lease_seconds=timedelta(seconds=20), heartbeat_seconds=timedelta(seconds=10))


def test_every_field_is_documented() -> None:
    """The generated page has a line for each; nothing changes after the start."""
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]
