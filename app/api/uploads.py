"""What /v1/models and /v1/datasets have in common: a name, and an answer that is the same for the same bytes."""

from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from app.api.deps import Caller, Parts
from app.api.documents import Json, text
from app.api.once import Answer, once
from app.api.receive import StoredFile, take_upload
from app.db.tables import DatasetRow, NetworkRow
from app.services.idempotency import Ticket
from app.services.uploads import Received, UploadKind

Row = TypeVar("Row", NetworkRow, DatasetRow)


class UploadQuery(BaseModel):
    """How an upload is called."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(
        default=None, min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$", description="File name."
    )


async def upload(  # noqa: PLR0913 - what the two kinds differ in
    request: Request,
    parts: Parts,
    caller: Caller,
    *,
    kind: UploadKind,
    name: str | None,
    key: str | None,
    register: Callable[[StoredFile, Ticket | None], Received[Row]],
    find: Callable[[str], Row],
    document: Callable[[Row], Json],
) -> Response:
    """Take a file in and answer with its resource: 201 where it is new, 200 where these bytes were there.

    Raises:
        ServiceError: as take_upload() and once() say.
    """
    stored = await take_upload(request, parts, kind, name=name)
    path = f"/v1/{kind}s"

    def answer(received: Received[Row]) -> Answer:
        status = HTTPStatus.CREATED if received.created else HTTPStatus.OK
        row = received.row
        headers = {"Location": f"{path}/{row.id}"}
        return Answer(status=status, body=text(document(row)), resource_id=row.id, headers=headers)

    def work(ticket: Ticket | None) -> Answer:
        return answer(register(stored, ticket))

    def recover(resource_id: str) -> Answer:
        return answer(Received(row=find(resource_id), created=True))

    beside: tuple[str, ...] = () if stored.external_data is None else (stored.external_data.digest,)
    identity = ("POST", path, stored.announced.name, stored.blob.digest, *beside)
    return await once(parts, caller.tenant, key, identity=identity, work=work, recover=recover)
