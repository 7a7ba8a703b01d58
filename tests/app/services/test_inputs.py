"""Looking at and deleting what was uploaded."""

import pytest

from app.errors import NotFound
from app.services.assembly import Services
from tests.builders import TENANT, upload_dataset, upload_model


def test_inputs_are_found_by_their_tenant(services: Services) -> None:
    """Another tenant's ids answer like ids that never were, for looking and for deleting."""
    model, dataset = upload_model(services), upload_dataset(services)

    assert services.inputs.model(TENANT, model.id).sha256 == model.sha256
    assert services.inputs.dataset(TENANT, dataset.id).sha256 == dataset.sha256
    for verb, row_id, noun in (
        (services.inputs.model, model.id, "model"),
        (services.inputs.delete_model, model.id, "model"),
        (services.inputs.dataset, dataset.id, "dataset"),
        (services.inputs.delete_dataset, dataset.id, "dataset"),
    ):
        with pytest.raises(NotFound, match=f"There is no {noun} {row_id}"):
            verb("other", row_id)

    assert services.inputs.models("other", limit=10) == ([], False)


def test_inputs_are_listed_newest_first(services: Services) -> None:
    """Page by page, without gaps."""
    made = [upload_dataset(services, bytes([number])).id for number in range(5)]
    first, more = services.inputs.datasets(TENANT, limit=2)
    rest, end = services.inputs.datasets(TENANT, limit=1000, after=first[-1].id)

    assert [row.id for row in [*first, *rest]] == made[::-1]
    assert (more, end) == (True, False)


def test_what_was_deleted_is_gone(services: Services) -> None:
    """A deleted input is not found, nor deleted twice."""
    model, dataset = upload_model(services), upload_dataset(services)
    services.inputs.delete_model(TENANT, model.id)
    services.inputs.delete_dataset(TENANT, dataset.id)
    with pytest.raises(NotFound):
        services.inputs.model(TENANT, model.id)
    with pytest.raises(NotFound):
        services.inputs.delete_dataset(TENANT, dataset.id)
