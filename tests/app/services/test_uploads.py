"""Bytes coming in: capped, counted, hashed, stored once, analysed once."""

import gc
import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.domain.job import JobKind
from app.errors import (
    DigestMismatch,
    EmptyUpload,
    ServiceError,
    StorageFull,
    UploadIncomplete,
    UploadTooLarge,
    WorkerLost,
)
from app.services.assembly import Services
from app.services.idempotency import Replay, Ticket
from app.services.uploads import Announced
from app.settings import Settings
from app.storage.local import LocalStore
from app.storage.memory import MemoryStore
from tests.builders import TENANT, FakeClock, claim, settings_with, upload_dataset, upload_model


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return settings_with(data_dir=tmp_path, database_url=database_url, max_model_bytes=100, max_dataset_bytes=200)


def leftovers(services: Services) -> list[Path]:
    assert isinstance(services.store, LocalStore)
    root = services.settings.data_dir / "store"
    return [path for path in root.rglob("*") if path.is_file()]


def receive(services: Services, *chunks: bytes, **announced: Any) -> object:
    return services.uploads.receive_model(TENANT, chunks, Announced(**{"name": "net.onnx", **announced}))


def test_a_model_is_stored_and_its_analysis_queued(services: Services) -> None:
    """One row, one blob under its digest, one analysis with what it needs."""
    received = services.uploads.receive_model(TENANT, [b"net", b"work"], Announced(name="net.onnx", length=7))
    claimed = claim(services)

    assert received.created
    assert (received.row.state, received.row.size_bytes, received.row.name) == ("analysing", 7, "net.onnx")
    assert received.row.sha256 == hashlib.sha256(b"network").hexdigest()
    assert (claimed.kind, claimed.network and claimed.network.id) == (JobKind.ANALYSE_MODEL, received.row.id)


def test_the_same_bytes_are_the_same_model(services: Services) -> None:
    """A second upload gives the first row, makes no second analysis, and another tenant has its own."""
    first, second = upload_model(services), upload_model(services)
    other = upload_model(services, tenant="other")

    assert first.id == second.id
    assert other.id != first.id
    assert {claim(services).tenant, claim(services).tenant} == {TENANT, "other"}
    assert services.attempts.claim("worker", ["cpu"]) is None
    assert len(leftovers(services)) == 1


def test_an_upload_after_a_deletion_is_new(services: Services) -> None:
    """A deleted model does not come back with its id."""
    first = upload_model(services)
    services.inputs.delete_model(TENANT, first.id)

    assert upload_model(services).id != first.id


def test_datasets_are_received_in_the_same_way(services: Services) -> None:
    """Their limit is their own."""
    row = services.uploads.receive_dataset(TENANT, [b"x" * 150], Announced(name="data.npz")).row

    assert (row.id[:4], row.state, claim(services).kind) == ("dst_", "analysing", JobKind.ANALYSE_DATASET)


@pytest.mark.parametrize(
    ("chunks", "announced", "kind", "message"),
    [
        ([], {}, EmptyUpload, "no bytes"),
        ([b""], {"length": 0}, EmptyUpload, "no bytes"),
        ([b"x"], {"length": 101}, UploadTooLarge, "101 bytes were announced; allowed are 100"),
        ([b"x" * 60, b"x" * 41], {}, UploadTooLarge, "more than 100 bytes arrived"),
        ([b"x" * 9], {"length": 10}, UploadIncomplete, "9 bytes arrived; 10 were announced"),
        ([b"x" * 11], {"length": 10}, UploadIncomplete, "11 bytes arrived; 10 were announced"),
        ([b"x"], {"sha256": "0" * 64}, DigestMismatch, "was announced"),
    ],
)
def test_what_is_refused_leaves_nothing(
    services: Services, chunks: list[bytes], announced: dict[str, Any], kind: type[ServiceError], message: str
) -> None:
    """No row, no blob, no temporary file, no analysis."""
    with pytest.raises(kind, match=message):
        receive(services, *chunks, **announced)

    assert leftovers(services) == []
    assert services.inputs.models(TENANT, limit=10) == ([], False)
    assert services.attempts.claim("worker", ["cpu"]) is None


def test_a_large_announcement_is_refused_unread(services: Services) -> None:
    """Not one byte is asked for."""

    def body() -> Iterator[bytes]:
        pytest.fail("the body was read")
        yield b""

    with pytest.raises(UploadTooLarge):
        services.uploads.receive_model(TENANT, body(), Announced(name="x", length=10**12))


def test_a_body_that_breaks_off_leaves_nothing(services: Services) -> None:
    """A client that vanishes costs no space."""

    def body() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        services.uploads.receive_model(TENANT, body(), Announced(name="x"))

    assert leftovers(services) == []


def test_the_first_bytes_can_be_judged(services: Services) -> None:
    """A check of the head stops the upload before more is read."""
    seen: list[bytes] = []

    def refuse(head: bytes) -> None:
        seen.append(head)
        raise EmptyUpload("not this")

    with pytest.raises(EmptyUpload):
        receive(services, b"head", b"tail", check_head=refuse)

    assert seen == [b"head"]
    assert leftovers(services) == []


def test_the_right_digest_passes(services: Services) -> None:
    """A digest in either case is compared with what arrived."""
    assert receive(services, b"abc", sha256=hashlib.sha256(b"abc").hexdigest().upper())


def test_a_store_keeps_its_reserve(services: Services, settings: Settings) -> None:
    """When free space would fall below the reserve, the upload is refused before it is read."""
    small = Services.of(
        settings.model_copy(update={"min_free_bytes": 1000}),
        database=services.database,
        store=MemoryStore(capacity_bytes=1050),
        bell=services.bell,
    )
    with pytest.raises(StorageFull, match="1050 bytes free and keeps 1000 in reserve") as refusal:
        small.uploads.receive_model(TENANT, [b"x" * 60], Announced(name="x", length=60))

    assert refusal.value.retry_after is not None
    small.uploads.receive_model(TENANT, [b"x" * 40], Announced(name="x", length=40))


def test_twenty_uploads_of_the_same_bytes_at_once(services: Services) -> None:
    """They all get one row, and one analysis is queued."""
    start = threading.Barrier(20)

    def upload(_: int) -> str:
        start.wait()
        return upload_model(services).id

    with ThreadPoolExecutor(20) as pool:
        ids = set(pool.map(upload, range(20)))
    claim(services)

    assert len(ids) == 1
    assert services.attempts.claim("worker", ["cpu"]) is None


def test_a_ticket_is_bound_to_what_was_made(services: Services) -> None:
    """A repetition after a crash finds the model that the first upload made."""
    ticket = services.idempotency.begin(TENANT, "key", "f" * 64)
    assert isinstance(ticket, Ticket)
    row = services.uploads.receive_model(TENANT, [b"x"], Announced(name="x"), ticket).row

    again = services.idempotency.begin(TENANT, "key", "f" * 64)

    assert isinstance(again, Replay)
    assert (again.resource_id, again.status) == (row.id, None)


def test_an_analysis_that_died_gets_another_chance(services: Services, clock: FakeClock) -> None:
    """Uploading again repeats an analysis whose workers were lost, but not one that rejected the model."""
    for retryable, state in ((True, "analysing"), (False, "rejected")):
        content = b"retry" if retryable else b"final"
        upload_model(services, content)
        for _ in range(services.settings.max_attempts):
            claimed = services.attempts.claim("worker", ["cpu"])
            if claimed is not None:
                problem = WorkerLost("Killed.").problem()
                services.attempts.fail(claimed.job_id, claimed.epoch, problem, retryable=retryable)

        assert upload_model(services, content).state == state


def test_memory_does_not_grow_with_the_upload(services: Services, settings: Settings) -> None:
    """A body of 256 MB raises the resident set by less than 16 MB."""
    large = Services.of(
        settings.model_copy(update={"max_dataset_bytes": 2**30}),
        database=services.database,
        store=services.store,
        bell=services.bell,
    )
    chunk = os.urandom(2**20)
    upload_dataset(large)
    gc.collect()
    before = peak = resident_bytes()

    def body() -> Iterator[bytes]:
        nonlocal peak
        for _ in range(256):
            yield chunk
            peak = max(peak, resident_bytes())

    large.uploads.receive_dataset(TENANT, body(), Announced(name="large", length=256 * 2**20))

    assert peak - before < 16 * 2**20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
