"""The OpenAPI document is the one that was reviewed, and says of every operation what it takes and answers.

After a change that is meant, `python -m tests.contracts.test_openapi` writes the reviewed file anew: read what differs.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import ServiceError
from app.main import create_app
from app.settings import Settings

REVIEWED = Path(__file__).with_name("openapi.json")


def current() -> str:
    """The document as it is now; the version of the package is not part of the review."""
    document = create_app(Settings()).openapi()
    document["info"]["version"] = "reviewed"
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The document as it is now."""
    found: dict[str, Any] = json.loads(current())
    return found


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def test_the_document_is_the_reviewed_one() -> None:
    """A change of the API is seen by a reader before clients see it."""
    assert REVIEWED.read_text() == current(), "run `python -m tests.contracts.test_openapi` and read the difference"


def test_every_operation_documents_its_problems(document: dict[str, Any]) -> None:
    """Each answer that is no success has the problem document's media type and schema."""
    for operation in operations(document):
        refusals = {status: found for status, found in operation["responses"].items() if int(status) >= 400}
        assert {"422", "500", "503"} <= set(refusals), operation["operationId"]
        for found in refusals.values():
            content = found.get("content", {})
            assert set(content) <= {"application/problem+json"}, operation["operationId"]


def test_operation_ids_are_unique_words(document: dict[str, Any]) -> None:
    """Ids name what is done, as clients generated from the document will."""
    names = [operation["operationId"] for operation in operations(document)]

    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and name.islower() for name in names)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    """No schema is named that is not there, and none is there that is not named."""
    text = json.dumps(document)
    schemata = document["components"]["schemas"]
    named = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}

    assert named == set(schemata)


def test_every_status_of_the_error_tree_is_documented_somewhere(document: dict[str, Any]) -> None:
    """A service error with an HTTP status of its own is an answer that some operation states, job failures aside."""
    job_failures_only = {410}
    statuses = {error.status for error in _tree(ServiceError)} - job_failures_only
    documented = {int(status) for operation in operations(document) for status in operation["responses"]}

    assert statuses <= documented


def _tree(root: type[ServiceError]) -> set[type[ServiceError]]:
    return {root}.union(*(_tree(child) for child in root.__subclasses__()))


if __name__ == "__main__":
    REVIEWED.write_text(current())
