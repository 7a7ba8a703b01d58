"""Fixtures of the API's tests: the service behind a real socket, on each database."""

from collections.abc import Iterator

import pytest

from app.services.assembly import Services
from tests.app.api.served import Host, Served, hosting


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    """A running server."""
    with hosting() as found:
        yield found


@pytest.fixture
def served(host: Host, services: Services) -> Iterator[Served]:
    """The service over HTTP."""
    with host.serving(services) as found:
        yield found
