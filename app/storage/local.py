"""A BlobStore on a directory: write to a temporary name, fsync, rename to `sha256/ab/abcd…`, fsync the directory."""

import errno
import hashlib
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Final, Self

from app.errors import BlobCorrupt, BlobMissing, StorageFull
from app.ids import Digest, is_digest
from app.storage.blobs import CHUNK_BYTES, Blob

_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY: Final = 0o440
_Signature = tuple[int, int, int]  # inode, size, time of the last change: what tells an untouched file


@contextmanager
def _room() -> Iterator[None]:
    """Turn what a full disk answers into StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        detail = f"The store has no room left ({os.strerror(error.errno or 0)})."
        raise StorageFull(detail, advice="Delete models or jobs, or try again later.") from error


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class LocalWriter:
    """Takes one blob into a temporary file beside its final place."""

    store: "LocalStore"
    temporary: Path
    file: BinaryIO
    size_bytes: int = 0
    _hash: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def write(self, chunk: bytes) -> None:
        """Take more bytes."""
        self._hash.update(chunk)
        with _room():
            self.file.write(chunk)
        self.size_bytes += len(chunk)

    def digest(self) -> Digest:
        """Give the digest of the bytes so far."""
        return Digest(self._hash.hexdigest())

    def commit(self) -> Blob:
        """Make the blob visible and durable."""
        digest = self.digest()
        with _room():
            self.file.flush()
            known = self.store.touch(digest, self.size_bytes)
            if known is not None:
                return known
            os.fchmod(self.file.fileno(), _READ_ONLY)
            os.fsync(self.file.fileno())
            final = self.store.path(digest)
            if not final.parent.is_dir():
                final.parent.mkdir(parents=True, exist_ok=True)
                _sync_directory(final.parent.parent)
            self.temporary.replace(final)
            _sync_directory(final.parent)
        return self.store.stat_or_raise(digest)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # a full disk may refuse the last flush; the file goes anyway
            self.file.close()
        self.temporary.unlink(missing_ok=True)


class LocalStore:
    """Content-addressed files below one directory of one file system."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "sha256"
        self._temporary = root / "tmp"
        for directory in (self._blobs, self._temporary):
            directory.mkdir(parents=True, exist_ok=True)
        self._verified: dict[Digest, _Signature] = {}
        self._lock = threading.Lock()

    def path(self, digest: Digest) -> Path:
        """Give where a blob lies; a digest that is none is refused, so that no name leaves the directory."""
        if not is_digest(digest):
            detail = f"{digest[:80]!r} is not a digest; allowed are 64 lower-case hexadecimal characters."
            raise BlobMissing(detail)
        return self._blobs / digest[:2] / digest

    def writer(self) -> LocalWriter:
        """Begin a new blob in a file that nobody else can see by its digest."""
        temporary = self._temporary / uuid.uuid4().hex
        with _room():
            file = temporary.open("xb")  # the writer closes it
        return LocalWriter(self, temporary, file)

    def open(self, digest: Digest, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Give the bytes from `start` up to `stop` in chunks."""
        return _chunks(self._open(digest), start, stop)

    def stat(self, digest: Digest) -> Blob | None:
        """Give what is known about a blob, or None."""
        try:
            found = self.path(digest).stat()
        except FileNotFoundError:
            return None
        return Blob(digest=digest, size_bytes=found.st_size, stored_at=datetime.fromtimestamp(found.st_mtime, UTC))

    def stat_or_raise(self, digest: Digest) -> Blob:
        """Give what is known about a blob that must be there."""
        blob = self.stat(digest)
        if blob is None:
            raise _missing(digest)
        return blob

    def touch(self, digest: Digest, size_bytes: int) -> Blob | None:
        """Renew the time of a whole blob, so that collection leaves it alone; None where it is not, or not whole."""
        path = self.path(digest)
        try:
            if path.stat().st_size != size_bytes:
                return None  # damaged: the new copy takes its place
            self.verify(digest)
            os.utime(path)
        except (FileNotFoundError, BlobMissing, BlobCorrupt):
            return None
        with self._lock:  # the touch changed the signature, not the bytes
            self._verified[digest] = _signature(path.stat())
        return self.stat(digest)

    def verify(self, digest: Digest) -> Blob:
        """Pass if the stored bytes still have their digest."""
        with self._open(digest) as file:
            signature = _signature(os.fstat(file.fileno()))
            with self._lock:
                known = self._verified.get(digest) == signature
            if not known:
                found = hashlib.file_digest(file, "sha256").hexdigest()
                if found != digest:
                    raise _corrupt(digest, found)
                with self._lock:
                    self._verified[digest] = signature
        return self.stat_or_raise(digest)

    def fetch(self, digest: Digest, target: Path) -> Blob:
        """Copy a blob into the new file `target`, checked on the way."""
        blob = self.stat_or_raise(digest)
        try:
            with _room(), target.open("xb") as file:
                hasher = hashlib.sha256()
                for chunk in self.open(digest):
                    hasher.update(chunk)
                    file.write(chunk)
            if hasher.hexdigest() != digest:
                raise _corrupt(digest, hasher.hexdigest())
        except (BlobCorrupt, BlobMissing, StorageFull):
            target.unlink(missing_ok=True)
            raise
        return blob

    def delete(self, digest: Digest, *, put_before: datetime) -> bool:
        """Delete a blob unless it was put since.

        The blob moves out of sight first and its time is read after that. A put that found it before the move has
        renewed the time, so the blob comes back; a put after the move finds nothing and writes its own copy.
        """
        path, trash = self.path(digest), self._temporary / f"trash-{uuid.uuid4().hex}"
        try:
            if datetime.fromtimestamp(path.stat().st_mtime, UTC) >= put_before:
                return False
            path.rename(trash)
        except FileNotFoundError:
            return False
        if datetime.fromtimestamp(trash.stat().st_mtime, UTC) >= put_before:
            with suppress(FileExistsError):
                os.link(trash, path)
            trash.unlink()
            return False
        trash.unlink()
        with self._lock:
            self._verified.pop(digest, None)
        return True

    def blobs(self) -> Iterator[Blob]:
        """Give every blob."""
        for path in self._blobs.glob("??/*"):
            if is_digest(path.name):
                blob = self.stat(Digest(path.name))
                if blob is not None:
                    yield blob

    def free_bytes(self) -> int:
        """Free space of the file system, for a user without privileges."""
        return shutil.disk_usage(self._blobs).free

    def sweep_temporary(self, *, now: datetime, older_than: timedelta) -> int:
        """Delete temporary files that a killed process left; says how many."""
        count = 0
        for path in self._temporary.iterdir():
            with suppress(FileNotFoundError):
                if now - datetime.fromtimestamp(path.stat().st_mtime, UTC) > older_than:
                    path.unlink()
                    count += 1
        return count

    def _open(self, digest: Digest) -> BufferedReader:
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError as error:
            raise _missing(digest) from error


def _chunks(file: BinaryIO, start: int, stop: int | None) -> Iterator[bytes]:
    with file:
        file.seek(start)
        left = stop - start if stop is not None else None
        while left is None or left > 0:
            chunk = file.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
            if not chunk:
                return
            left = left if left is None else left - len(chunk)
            yield chunk


def _signature(found: os.stat_result) -> _Signature:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _missing(digest: Digest) -> BlobMissing:
    return BlobMissing(f"The store has no content {digest}.")


def _corrupt(digest: Digest, found: str) -> BlobCorrupt:
    return BlobCorrupt(f"Content stored as {digest} now hashes to {found}; it is not served.")
