"""What a directory adds to the contract of blob stores: names, modes, full disks, leftovers."""

import os
import resource
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.errors import BlobMissing, StorageFull
from app.ids import Digest
from app.storage.blobs import put
from app.storage.local import LocalStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_blobs_lie_below_their_first_two_digits(root: Path) -> None:
    """A blob is one read-only file; nothing else remains of the put."""
    blob = put(LocalStore(root), [b"abc"])

    # SHA-256 of "abc": FIPS 180-2, appendix B.1.
    assert files(root) == ["sha256/ba/ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"]
    assert stat.S_IMODE((root / files(root)[0]).stat().st_mode) == 0o440
    assert blob.size_bytes == 3


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "ab", "A" * 64, "0" * 63 + "/", "0" * 65, "0" * 63 + "\n"])
def test_a_name_that_is_no_digest_leaves_the_directory_nowhere(root: Path, name: str) -> None:
    """Only digests are looked up."""
    with pytest.raises(BlobMissing, match="is not a digest"):
        LocalStore(root).stat(Digest(name))


def test_a_full_disk_is_an_error_and_leaves_nothing(root: Path) -> None:
    """When the system refuses to write on, the put fails as StorageFull, and the next small one succeeds."""
    store = LocalStore(root)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))  # the kernel answers EFBIG, as a full disk ENOSPC
    try:
        with pytest.raises(StorageFull, match="no room left") as refusal:
            put(store, [b"x" * 50_000, b"y" * 50_000])

        assert refusal.value.status == 507
        assert files(root) == []
        assert put(store, [b"small"]).size_bytes == 5
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_spoils_no_fetch(root: Path, tmp_path: Path) -> None:
    """A copy that does not fit is removed again."""
    store = LocalStore(root)
    blob = put(store, [b"x" * 100_000])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
    try:
        with pytest.raises(StorageFull):
            store.fetch(blob.digest, tmp_path / "copy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert not (tmp_path / "copy").exists()


def test_leftovers_of_killed_processes_are_swept(root: Path) -> None:
    """A temporary file goes when it is old enough that nobody can be writing it."""
    store = LocalStore(root)
    writer = store.writer()
    writer.write(b"x" * 100_000)
    now = datetime.now(UTC)

    assert store.sweep_temporary(now=now, older_than=timedelta(hours=1)) == 0
    assert store.sweep_temporary(now=now + timedelta(hours=2), older_than=timedelta(hours=1)) == 1
    assert files(root) == []
    writer.file.close()


def test_an_untouched_blob_is_hashed_once(root: Path) -> None:
    """A second check of an unchanged file does not read it; a changed time makes it read again."""
    store = LocalStore(root)
    blob = put(store, [b"content"])
    store.verify(blob.digest)
    path = store.path(blob.digest)
    found = path.stat()
    path.chmod(0o600)
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))  # what a check of the time alone cannot see

    assert store.verify(blob.digest).size_bytes == 7

    os.utime(path)
    with pytest.raises(Exception, match="now hashes to"):
        store.verify(blob.digest)


def test_puts_and_deletes_of_one_content_race_safely(root: Path) -> None:
    """Whatever the collector does meanwhile, content is there when its put has returned."""
    store = LocalStore(root)
    stop = threading.Event()
    begun: dict[int, datetime] = {}  # of the puts that have not returned, by worker

    def collect() -> None:
        tick = timedelta(milliseconds=50)  # clocks of files are coarser than ours
        while not stop.is_set():
            for blob in store.blobs():
                store.delete(blob.digest, put_before=min([datetime.now(UTC), *begun.copy().values()]) - tick)

    def work(number: int) -> int:
        missing = 0
        for _ in range(150):
            begun[number] = datetime.now(UTC)
            blob = put(store, [b"content"])
            missing += store.stat(blob.digest) is None
            del begun[number]
        return missing

    with ThreadPoolExecutor(5) as pool:
        collecting = pool.submit(collect)
        try:
            missing = sum(pool.map(work, range(3)))
        finally:
            stop.set()
        collecting.result()

    assert missing == 0
