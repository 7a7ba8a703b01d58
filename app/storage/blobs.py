"""Bytes by digest: what every store promises, whatever it keeps them in.

A blob's address is the SHA-256 that the store computed while the bytes went by; what a client says its digest is can
only be compared with it. Blobs never change, and a partial one is never visible. A general object-store client was
considered for this (obstore, fsspec): they name an object before its bytes are known, and hash in a second pass.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, Self

from app.ids import Digest

CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """What a store knows about one content."""

    digest: Digest
    size_bytes: int
    stored_at: datetime  # when it was last put; guards it against collection


class BlobWriter(Protocol):
    """Takes the bytes of one blob. A context manager: what was not committed is gone when it closes."""

    @property
    def size_bytes(self) -> int:
        """Bytes taken so far."""

    def write(self, chunk: bytes) -> None:
        """Take more bytes.

        Raises:
            StorageFull: there is no room; nothing remains of what was written.
        """

    def digest(self) -> Digest:
        """Give the digest of the bytes so far."""

    def commit(self) -> Blob:
        """Make the blob visible and durable; the same content twice is stored once.

        Raises:
            StorageFull: there is no room; nothing remains of what was written.
        """

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """Drop whatever was not committed."""


class BlobStore(Protocol):
    """A place for immutable content, addressed by digest. Safe to share between threads and processes."""

    def writer(self) -> BlobWriter:
        """Begin a new blob.

        Raises:
            StorageFull: there is no room.
        """

    def open(self, digest: Digest, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Give the bytes from `start` up to `stop` in chunks of 1 MiB.

        Raises:
            BlobMissing: there is no such blob, at once rather than at the first chunk.
        """

    def stat(self, digest: Digest) -> Blob | None:
        """Give what is known about a blob, or None where there is none."""

    def verify(self, digest: Digest) -> Blob:
        """Pass if the stored bytes still have their digest; what was found whole and has not changed is not read again.

        Raises:
            BlobMissing: there is no such blob.
            BlobCorrupt: the bytes were cut or changed.
        """

    def fetch(self, digest: Digest, target: Path) -> Blob:
        """Copy a blob into the new file `target`, checked on the way; `target` does not exist after a failure.

        Raises:
            BlobMissing: there is no such blob.
            BlobCorrupt: the bytes were cut or changed.
            StorageFull: there is no room where `target` lies.
        """

    def delete(self, digest: Digest, *, put_before: datetime) -> bool:
        """Delete a blob that was last put before that moment; says whether it did."""

    def blobs(self) -> Iterator[Blob]:
        """Give every blob, in no order."""

    def free_bytes(self) -> int:
        """Bytes that can still be stored."""


def put(store: BlobStore, chunks: Iterable[bytes]) -> Blob:
    """Store the bytes of `chunks`.

    Raises:
        StorageFull: there is no room; nothing remains.
    """
    with store.writer() as writer:
        for chunk in chunks:
            writer.write(chunk)
        return writer.commit()


def put_file(store: BlobStore, path: Path) -> Blob:
    """Store a file's bytes.

    Raises:
        StorageFull: there is no room; nothing remains.
    """
    with path.open("rb") as file:
        return put(store, iter(lambda: file.read(CHUNK_BYTES), b""))
