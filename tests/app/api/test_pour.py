"""A body is poured into a synchronous sink without growing in memory, and ends cleanly when either side breaks."""

import threading
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest
from anyio import CapacityLimiter

from app.api.pour import BATCH_BYTES, WAITING_BATCHES, BrokenPour, batches, pour


async def body(pieces: list[bytes], *, then: Exception | None = None) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
    if then is not None:
        raise then


def test_the_sink_gets_every_byte_in_order() -> None:
    """What the sink returns is returned, and it has seen the whole body."""
    pieces = [bytes([number]) * 70_000 for number in range(60)]

    async def run() -> bytes:
        return await pour(body(pieces), b"".join, CapacityLimiter(1))

    assert anyio.run(run) == b"".join(pieces)


def test_batches_have_at_least_the_size_asked_for() -> None:
    """Only the last batch may be smaller."""

    async def sizes() -> list[int]:
        return [len(batch) async for batch in batches(body([b"x" * 4] * 5), size=8)]

    assert anyio.run(sizes) == [8, 8, 4]


def test_a_body_that_breaks_off_breaks_the_sink_and_tells_the_caller_why() -> None:
    """The sink sees BrokenPour instead of an end, so that it keeps nothing; the caller sees the reason."""
    seen: list[BaseException] = []

    def sink(chunks: Iterator[bytes]) -> int:
        try:
            return sum(map(len, chunks))
        except BrokenPour as error:
            seen.append(error)
            raise

    async def run() -> int:
        return await pour(body([b"x" * BATCH_BYTES] * 3, then=ConnectionError("gone")), sink, CapacityLimiter(1))

    with pytest.raises(ConnectionError, match="gone"):
        anyio.run(run)

    assert len(seen) == 1


def test_a_sink_that_fails_stops_the_reading() -> None:
    """The caller sees the sink's error, and the rest of the body is not asked for."""
    asked = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield b"x" * BATCH_BYTES

    def sink(chunks: Iterator[bytes]) -> None:
        next(chunks)
        raise OSError(28, "No space left on device")

    async def run() -> None:
        await pour(endless(), sink, CapacityLimiter(1))

    with pytest.raises(OSError, match="No space left"):
        anyio.run(run)

    assert asked <= WAITING_BATCHES + 3


def test_a_slow_sink_holds_the_reading_back() -> None:
    """No more batches are read than may wait, however fast they come."""
    read = 0
    go = threading.Event()
    read_before_going: list[int] = []

    async def fast() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(20):
            read += 1
            yield b"x" * BATCH_BYTES

    def sink(chunks: Iterator[bytes]) -> int:
        go.wait(0.2)
        read_before_going.append(read)
        return sum(map(len, chunks))

    async def run() -> int:
        return await pour(fast(), sink, CapacityLimiter(1))

    assert anyio.run(run) == 20 * BATCH_BYTES
    assert read_before_going[0] <= WAITING_BATCHES + 1
