"""Whatever goes wrong, the answer is a problem document that carries the id of its request."""

from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from app.services.assembly import Services
from app.storage.blobs import BlobWriter
from app.storage.memory import MemoryStore
from tests.app.api.served import Host, Served


def test_an_unknown_path_is_a_problem(served: Served) -> None:
    """404 names the path and where the known ones are listed."""
    answer = served.http.get("/v2/models")

    assert answer.status_code == 404
    assert answer.json()["type"] == "not-found"
    assert "/v2/models" in answer.json()["detail"]


def test_a_method_that_is_not_taken_is_a_problem(served: Served) -> None:
    """405 lists every method of the path, as does Allow."""
    answer = served.http.put("/v1/models")

    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, POST")
    assert "GET, POST" in answer.json()["detail"]


def test_a_request_id_is_kept_or_given(served: Served) -> None:
    """A fit id comes back, an unfit one is replaced, and each answer without one gets its own."""
    kept = served.http.get("/livez", headers={"X-Request-ID": "abc-123"})
    unfit = served.http.get("/livez", headers={"X-Request-ID": "a b" * 100})
    given = {served.http.get("/livez").headers["X-Request-ID"] for _ in range(3)}

    assert kept.headers["X-Request-ID"] == "abc-123"
    assert unfit.headers["X-Request-ID"].startswith("req_")
    assert len(given) == 3


class BrokenStore(MemoryStore):
    """A store with a mistake in it."""

    def writer(self) -> BlobWriter:
        raise RuntimeError("secret insides")


@pytest.fixture
def broken(host: Host, services: Services) -> Iterator[Served]:
    """The service with a store that fails in an unforeseen way."""
    store = BrokenStore()
    with host.serving(replace(services, store=store, uploads=replace(services.uploads, store=store))) as found:
        yield found


def test_a_mistake_of_ours_tells_its_id_and_nothing_else(broken: Served) -> None:
    """500 carries the request's id, under which the log has the rest; the insides stay inside."""
    answer = broken.http.post("/v1/models", content=b"\x08\x07network", headers={"X-Request-ID": "r-1"})

    assert (answer.status_code, answer.json()["type"]) == (500, "internal-error")
    assert answer.json()["instance"] == answer.headers["X-Request-ID"] == "r-1"
    assert "secret" not in answer.text


def test_the_index_leads_to_the_documentation(served: Served) -> None:
    """The page at / links /docs, and both are there."""
    page = served.http.get("/")

    assert page.headers["Content-Type"].startswith("text/html")
    assert 'href="/docs"' in page.text
    assert httpx.get(f"{served.url}/docs").status_code == 200
