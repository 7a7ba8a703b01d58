"""A BlobStore in a dict, for tests; held to the same contract as the one on disk."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from app.errors import BlobCorrupt, BlobMissing, StorageFull
from app.ids import Digest
from app.storage.blobs import CHUNK_BYTES, Blob


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class MemoryWriter:
    """Takes one blob into a list of chunks."""

    store: "MemoryStore"
    chunks: list[bytes] = field(default_factory=list)
    size_bytes: int = 0

    def write(self, chunk: bytes) -> None:
        """Take more bytes."""
        if self.size_bytes + len(chunk) > self.store.free_bytes():
            self.chunks.clear()
            raise StorageFull("The store has no room left.", advice="Delete models or jobs, or try again later.")
        self.chunks.append(bytes(chunk))
        self.size_bytes += len(chunk)

    def digest(self) -> Digest:
        """Give the digest of the bytes so far."""
        return Digest(hashlib.sha256(b"".join(self.chunks)).hexdigest())

    def commit(self) -> Blob:
        """Make the blob visible."""
        return self.store.keep(b"".join(self.chunks))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.chunks.clear()


@dataclass(slots=True)
class MemoryStore:
    """Content in a dict; `capacity_bytes` makes a full disk."""

    capacity_bytes: int = 1 << 40
    clock: Callable[[], datetime] = _utc_now
    content: dict[Digest, bytes] = field(default_factory=dict)
    _times: dict[Digest, datetime] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, content: bytes) -> Blob:
        """Store whole content."""
        digest = Digest(hashlib.sha256(content).hexdigest())
        with self._lock:
            self.content[digest] = content
            self._times[digest] = self.clock()
            return self._blob(digest)

    def writer(self) -> MemoryWriter:
        """Begin a new blob."""
        return MemoryWriter(self)

    def open(self, digest: Digest, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Give the bytes from `start` up to `stop` in chunks."""
        content = self._get(digest)[start:stop]
        return (content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES))

    def stat(self, digest: Digest) -> Blob | None:
        """Give what is known about a blob, or None."""
        with self._lock:
            return self._blob(digest) if digest in self.content else None

    def verify(self, digest: Digest) -> Blob:
        """Pass if the stored bytes still have their digest."""
        content = self._get(digest)
        found = hashlib.sha256(content).hexdigest()
        if found != digest:
            raise BlobCorrupt(f"Content stored as {digest} now hashes to {found}; it is not served.")
        with self._lock:
            return self._blob(digest)

    def fetch(self, digest: Digest, target: Path) -> Blob:
        """Copy a blob into the new file `target`."""
        blob = self.verify(digest)
        with target.open("xb") as file:
            file.write(self._get(digest))
        return blob

    def delete(self, digest: Digest, *, put_before: datetime) -> bool:
        """Delete a blob that was last put before that moment."""
        with self._lock:
            if digest not in self.content or self._times[digest] >= put_before:
                return False
            del self.content[digest], self._times[digest]
            return True

    def blobs(self) -> Iterator[Blob]:
        """Give every blob."""
        with self._lock:
            return iter([self._blob(digest) for digest in self.content])

    def free_bytes(self) -> int:
        """Bytes that can still be stored."""
        with self._lock:
            return self.capacity_bytes - sum(map(len, self.content.values()))

    def _get(self, digest: Digest) -> bytes:
        with self._lock:
            if digest not in self.content:
                raise BlobMissing(f"The store has no content {digest[:80]}.")
            return self.content[digest]

    def _blob(self, digest: Digest) -> Blob:
        return Blob(digest=digest, size_bytes=len(self.content[digest]), stored_at=self._times[digest])
