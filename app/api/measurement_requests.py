"""What the routes of users and of agents share: reading a body, and a request for a measurement as a document."""

from fastapi import Request

from app.api import documents
from app.api.deps import Parts
from app.api.json_body import read_json
from app.api.receive import take_json


async def read_body(request: Request, parts: Parts) -> object:
    """The JSON of a request, within the size that a spec may have."""
    given = await take_json(request, max_bytes=parts.services.settings.max_spec_bytes)
    return read_json(given, where="The body")


def request_document(parts: Parts, tenant: str, device_id: str, request_id: str) -> documents.Json:
    """A request with its items."""
    found = parts.services.devices.batch(tenant, device_id, request_id)
    return documents.measurement_request(found.request, [item for item, _ in found.items])
