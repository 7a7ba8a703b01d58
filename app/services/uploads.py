"""Receive bytes: capped, counted and hashed while they go into the store, then one row per content and tenant."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Generic, Literal

from sqlalchemy.exc import IntegrityError

from app.db import inputs
from app.db.inputs import Row
from app.db.session import Clock, Database
from app.db.tables import DatasetRow, JobRow, NetworkRow, OutboxRow
from app.domain.job import InputState, JobKind
from app.errors import (
    DigestMismatch,
    EmptyUpload,
    StorageFull,
    UploadIncomplete,
    UploadTooLarge,
)
from app.ids import Digest, Prefix, new_id
from app.services import idempotency
from app.services.jobs import ANALYSIS_PRIORITY, enqueue
from app.services.outbox import Outbox
from app.settings import Settings
from app.storage.blobs import Blob, BlobStore

UploadKind = Literal["model", "external_data", "dataset"]
_PREFIX: Final[Mapping[type, Prefix]] = {NetworkRow: "mdl", DatasetRow: "dst"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """What the client says about the bytes before they come; what it leaves out is not checked."""

    name: str
    length: int | None = None  # Content-Length of the file itself
    sha256: str | None = None  # Content-Digest or Repr-Digest
    check_head: Callable[[bytes], None] | None = field(default=None)  # judges the first bytes, raises to refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class Received(Generic[Row]):
    """The row of an upload, and whether it is new: otherwise the tenant had these bytes already."""

    row: Row
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploads:
    """Models and datasets of users: receive, list, delete."""

    database: Database
    store: BlobStore
    settings: Settings
    outbox: Outbox
    clock: Clock

    def receive_model(
        self, tenant: str, chunks: Iterable[bytes], announced: Announced, ticket: idempotency.Ticket | None = None
    ) -> Received[NetworkRow]:
        """Take in a network and have it analysed. Memory does not grow with it.

        Raises:
            UploadTooLarge: above `max_model_bytes`, by announcement or by count.
            UploadIncomplete: not as long as announced.  EmptyUpload: no bytes at all.
            DigestMismatch: not the bytes whose digest was announced.
            StorageFull: no room; nothing remains.
        """
        blob = self.store_bytes(chunks, announced, "model")
        return self.register_model(tenant, blob, announced, ticket)

    def receive_dataset(
        self, tenant: str, chunks: Iterable[bytes], announced: Announced, ticket: idempotency.Ticket | None = None
    ) -> Received[DatasetRow]:
        """Take in a dataset and have it described. Raises what receive_model raises."""
        blob = self.store_bytes(chunks, announced, "dataset")
        return self.register_dataset(tenant, blob, announced, ticket)

    def register_model(
        self,
        tenant: str,
        blob: Blob,
        announced: Announced,
        ticket: idempotency.Ticket | None = None,
        *,
        external_data: Blob | None = None,
    ) -> Received[NetworkRow]:
        """Give the tenant's model with these stored bytes: a new one is analysed.

        `external_data` is the companion that holds its weights; the same network with another one is another model.
        """
        content = {
            "sha256": blob.digest,
            "size_bytes": blob.size_bytes,
            "external_data_sha256": "" if external_data is None else external_data.digest,
            "external_data_bytes": 0 if external_data is None else external_data.size_bytes,
        }
        return self._register(NetworkRow, tenant, content, announced, ticket)

    def register_dataset(
        self, tenant: str, blob: Blob, announced: Announced, ticket: idempotency.Ticket | None = None
    ) -> Received[DatasetRow]:
        """Give the tenant's dataset with these stored bytes: a new one is described."""
        content = {"sha256": blob.digest, "size_bytes": blob.size_bytes}
        return self._register(DatasetRow, tenant, content, announced, ticket)

    def check_announced(self, announced: Announced, kind: UploadKind) -> None:
        """Refuse what need not be sent at all: too large by announcement, or no room for it.

        Raises:
            UploadTooLarge: above the limit.
            StorageFull: the store would fall below its reserve.
        """
        limit, length = self._limit(kind), announced.length or 0
        if length > limit:
            raise _too_large(kind, f"{length} bytes were announced", limit)
        free = self.store.free_bytes()
        if free - length < self.settings.min_free_bytes:
            detail = f"The store has {free} bytes free and keeps {self.settings.min_free_bytes} in reserve."
            raise StorageFull(
                detail, advice="Delete models or jobs, or try again later.", retry_after=timedelta(seconds=60)
            )

    def store_bytes(self, chunks: Iterable[bytes], announced: Announced, kind: UploadKind) -> Blob:
        """Take the bytes into the store without a row; what is refused leaves nothing behind. Raises as above."""
        self.check_announced(announced, kind)
        limit = self._limit(kind)
        with self.store.writer() as writer:
            for chunk in chunks:
                if writer.size_bytes == 0 and announced.check_head is not None and chunk:
                    announced.check_head(chunk)
                if writer.size_bytes + len(chunk) > limit:
                    raise _too_large(kind, f"more than {limit} bytes arrived", limit)
                writer.write(chunk)
            _check_whole(announced, writer.size_bytes, writer.digest())
            return writer.commit()

    def _register(
        self,
        kind: type[Row],
        tenant: str,
        content: Mapping[str, object],
        announced: Announced,
        ticket: idempotency.Ticket | None,
    ) -> Received[Row]:
        try:
            received, message = self._upsert(kind, tenant, content, announced, ticket)
        except IntegrityError:  # the same bytes came twice at once; the other one's row is there now
            received, message = self._upsert(kind, tenant, content, announced, ticket)
        if message is not None:
            self.outbox.deliver([message])
        return received

    def _upsert(
        self,
        kind: type[Row],
        tenant: str,
        content: Mapping[str, object],
        announced: Announced,
        ticket: idempotency.Ticket | None,
    ) -> tuple[Received[Row], OutboxRow | None]:
        with self.database.unit_of_work() as session:
            row = inputs.find_by_content(session, kind, tenant, content)
            created = row is None
            if row is None:
                values = {"id": new_id(_PREFIX[kind]), "tenant": tenant, "name": announced.name[:255], "version": 1}
                row = inputs.new_row(kind, {**values, **content}, self.clock(session))
                session.add(row)
                session.flush()
            again = row.state == InputState.REJECTED and bool((row.problem or {}).get("retryable"))
            if again:  # the analysis died, the model is not to blame: another upload is another chance
                row.state, row.problem, row.version = InputState.ANALYSING.value, None, row.version + 1
            message = None
            if created or again:
                message = enqueue(session, _analysis(kind, row), self.settings, self.clock)
            if ticket is not None:
                idempotency.bind(session, ticket, row.id)
        return Received(row=row, created=created), message

    def _limit(self, kind: UploadKind) -> int:
        return self.settings.max_upload_bytes[kind]


def _analysis(kind: type[Row], row: Row) -> JobRow:
    job = JobRow(id=new_id("job"), tenant=row.tenant, spec={}, queue="cpu", priority=ANALYSIS_PRIORITY)
    if kind is NetworkRow:
        job.kind, job.model_id = JobKind.ANALYSE_MODEL.value, row.id
    else:
        job.kind, job.dataset_id = JobKind.ANALYSE_DATASET.value, row.id
    return job


def _check_whole(announced: Announced, size_bytes: int, digest: Digest) -> None:
    if size_bytes == 0:
        raise EmptyUpload("The upload has no bytes.", advice="Send the file as the body, or as the part `file`.")
    if announced.length is not None and size_bytes != announced.length:
        detail = f"{size_bytes} bytes arrived; {announced.length} were announced."
        raise UploadIncomplete(detail, advice="Send the file again.")
    if announced.sha256 is not None and digest != announced.sha256.lower():
        detail = f"The bytes that arrived hash to {digest}; {announced.sha256.lower()} was announced."
        raise DigestMismatch(detail, advice="Send the file again.")


def _too_large(kind: UploadKind, actual: str, limit: int) -> UploadTooLarge:
    name = f"ESPALIER_MAX_{kind.upper()}_BYTES"
    return UploadTooLarge(
        f"The {kind} is too large: {actual}; allowed are {limit}.", advice=f"An operator may raise {name}."
    )
