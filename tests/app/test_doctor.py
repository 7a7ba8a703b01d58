"""The doctor finds out by trying."""

from pathlib import Path

from app.doctor import Finding, examine
from app.settings import Settings


def _by_name(settings: Settings) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(settings)}


def test_a_working_machine_is_described(tmp_path: Path) -> None:
    """Database, store, torch and every layer of the sandbox are tried, with what was found."""
    found = _by_name(Settings(data_dir=tmp_path))

    assert found["database"].works
    assert found["store"].works
    assert found["torch"].works
    assert found["torch"].detail.startswith("2.13.0")
    assert found["sandbox: no_new_privileges"].works
    assert any(name.startswith("sandbox: network") for name in found)


def test_what_does_not_answer_is_a_finding_not_a_crash(tmp_path: Path) -> None:
    """A broker and a database that refuse connections are named with their reason."""
    settings = Settings(
        data_dir=tmp_path,
        redis_url="redis://127.0.0.1:1/0",
        database_url="postgresql+psycopg://nobody@127.0.0.1:1/none",
    )
    found = _by_name(settings)

    assert not found["bell"].works
    assert not found["database"].works
    assert "refused" in found["database"].detail.lower() + found["bell"].detail.lower()
