"""One behaviour of every BlobStore, whatever it keeps its bytes in."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BlobCorrupt, BlobMissing
from app.ids import Digest
from app.storage.blobs import CHUNK_BYTES, BlobStore, put, put_file
from app.storage.local import LocalStore
from app.storage.memory import MemoryStore

ABSENT = Digest("0" * 64)
FUTURE = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return LocalStore(tmp_path / "store") if request.param == "local" else MemoryStore()


@pytest.fixture
def damage(store: BlobStore) -> Callable[[Digest, bytes], None]:
    """Replace stored bytes behind the store's back."""

    def replace(digest: Digest, content: bytes) -> None:
        if isinstance(store, MemoryStore):
            store.content[digest] = content
        else:
            assert isinstance(store, LocalStore)
            path = store.path(digest)
            path.chmod(0o600)
            path.write_bytes(content)

    return replace


@given(chunks=st.lists(st.binary(max_size=1000), max_size=8))
def test_what_was_put_is_read_back_by_its_digest(store: BlobStore, chunks: list[bytes]) -> None:
    """The address is the SHA-256 of the bytes, however they were cut into chunks."""
    blob = put(store, chunks)
    whole = b"".join(chunks)

    assert blob.digest == hashlib.sha256(whole).hexdigest()
    assert b"".join(store.open(blob.digest)) == whole
    assert store.stat(blob.digest) == blob


@pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 0), (1, 2), (CHUNK_BYTES - 1, CHUNK_BYTES + 1), (5, None)])
def test_ranges_are_those_of_slices(store: BlobStore, start: int, stop: int | None) -> None:
    """A range begins at `start` and ends before `stop`, across chunk borders too."""
    content = bytes(range(256)) * (CHUNK_BYTES // 256) + b"tail"
    blob = put(store, [content])

    assert b"".join(store.open(blob.digest, start, stop)) == content[start:stop]


def test_an_uncommitted_blob_never_existed(store: BlobStore) -> None:
    """A writer that is left by an error leaves nothing to see."""

    def broken() -> None:
        with store.writer() as writer:
            writer.write(b"half of it")
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        broken()

    assert store.stat(Digest(hashlib.sha256(b"half of it").hexdigest())) is None
    assert list(store.blobs()) == []


def test_the_same_content_is_stored_once(store: BlobStore) -> None:
    """Putting bytes twice gives one blob."""
    first, second = put(store, [b"ab", b"c"]), put(store, [b"abc"])

    assert first.digest == second.digest
    assert [blob.digest for blob in store.blobs()] == [first.digest]


def test_a_missing_blob_is_missing_everywhere(store: BlobStore, tmp_path: Path) -> None:
    """What is not there has no stat, cannot be opened, verified, fetched or deleted."""
    assert store.stat(ABSENT) is None
    assert store.delete(ABSENT, put_before=FUTURE) is False
    with pytest.raises(BlobMissing, match="no content 0000"):
        store.open(ABSENT)
    with pytest.raises(BlobMissing):
        store.verify(ABSENT)
    with pytest.raises(BlobMissing):
        store.fetch(ABSENT, tmp_path / "copy")

    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("damaged", [b"conten", b"contenT", b"content.", b""])
def test_damage_is_found_before_bytes_are_used(
    store: BlobStore, damage: Callable[[Digest, bytes], None], tmp_path: Path, damaged: bytes
) -> None:
    """Cut, changed, longer and empty bytes are corrupt, also when they were whole at an earlier check."""
    blob = put(store, [b"content"])
    store.verify(blob.digest)
    damage(blob.digest, damaged)
    with pytest.raises(BlobCorrupt, match="now hashes to"):
        store.verify(blob.digest)
    with pytest.raises(BlobCorrupt):
        store.fetch(blob.digest, tmp_path / "copy")

    assert not (tmp_path / "copy").exists()


def test_putting_heals_damage(store: BlobStore, damage: Callable[[Digest, bytes], None]) -> None:
    """The right bytes, put again, replace damaged ones."""
    blob = put(store, [b"content"])
    for damaged in (b"contenT", b"c"):
        damage(blob.digest, damaged)
        put(store, [b"content"])

        assert b"".join(store.open(blob.digest)) == b"content"
        assert store.verify(blob.digest).digest == blob.digest


def test_fetch_copies_into_a_new_file(store: BlobStore, tmp_path: Path) -> None:
    """A copy has the same bytes and is its owner's own; an existing file is never overwritten."""
    blob = put(store, [b"con", b"tent"])
    store.fetch(blob.digest, tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == b"content"
    with pytest.raises(FileExistsError):
        store.fetch(blob.digest, tmp_path / "copy")

    (tmp_path / "copy").write_bytes(b"changed")

    assert b"".join(store.open(blob.digest)) == b"content"


def test_delete_spares_what_was_put_since(store: BlobStore) -> None:
    """Collection names a moment; what was put after it stays."""
    blob = put(store, [b"content"])

    assert store.delete(blob.digest, put_before=blob.stored_at - timedelta(seconds=1)) is False
    assert store.stat(blob.digest) is not None
    assert store.delete(blob.digest, put_before=FUTURE) is True
    assert store.stat(blob.digest) is None


def test_a_file_can_be_put(store: BlobStore, tmp_path: Path) -> None:
    """A file's bytes are stored as they are."""
    (tmp_path / "file").write_bytes(b"content")

    assert put_file(store, tmp_path / "file").size_bytes == 7


def test_free_space_is_known(store: BlobStore) -> None:
    """The store says how much it can still take."""
    assert store.free_bytes() > 0
