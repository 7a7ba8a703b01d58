"""Fixtures of the whole suite: where real data lies, how hypothesis searches, how many threads torch uses."""

import os
import sys
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

# A service inside the test's process tells its story beside what a command under test prints, not in it.
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))

settings.register_profile(
    "default", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.register_profile("nightly", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

PROJECT_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real models and images; a test that needs it is skipped where it is absent."""
    path = Path(os.environ.get("ESPALIER_TEST_DATA", PROJECT_ROOT.parent / "shared" / "data"))
    if not (path / "models").is_dir():
        pytest.skip(f"real models and images are not at {path}; set ESPALIER_TEST_DATA to their folder")
    return path
