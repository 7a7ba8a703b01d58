"""From an asynchronous body to a synchronous sink: the network is read here while a thread hashes and writes."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

import anyio
from anyio import CapacityLimiter, from_thread, to_thread
from anyio.streams.memory import MemoryObjectReceiveStream

T = TypeVar("T")

BATCH_BYTES = 1024 * 1024
# One batch waits while one is written: enough to keep both sides busy, and memory stays at a few MiB per upload.
WAITING_BATCHES = 2


class BrokenPour(Exception):
    """Raised inside the sink when the body did not arrive whole, so that the sink drops what it has."""


class _Feed:
    """The thread's end: an iterator that asks the event loop for the next batch."""

    def __init__(self, stream: MemoryObjectReceiveStream[bytes]) -> None:
        self.stream = stream
        self.whole = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return from_thread.run(self.stream.receive)
        except anyio.EndOfStream:
            if self.whole:
                raise StopIteration from None
            raise BrokenPour("the body did not arrive whole") from None


async def batches(chunks: AsyncIterator[bytes], size: int = BATCH_BYTES) -> AsyncIterator[bytes]:
    """The same bytes in pieces of at least `size` (the last may be smaller): fewer and larger hops and writes."""
    held: list[bytes] = []
    held_bytes = 0
    async for chunk in chunks:
        held.append(chunk)
        held_bytes += len(chunk)
        if held_bytes >= size:
            yield b"".join(held)
            held.clear()
            held_bytes = 0
    if held_bytes:
        yield b"".join(held)


async def pour(chunks: AsyncIterator[bytes], sink: Callable[[Iterator[bytes]], T], limiter: CapacityLimiter) -> T:
    """Run `sink` in a thread over the bytes of `chunks`, and give what it gives.

    The two run side by side with a bounded number of batches between them, so memory does not grow with the body. If
    the body breaks off, the sink sees BrokenPour and the caller the reason; if the sink fails, reading stops and the
    caller sees the sink's error.
    """
    send, receive = anyio.create_memory_object_stream[bytes](WAITING_BATCHES)
    feed = _Feed(receive)
    outcome: list[T] = []
    failures: list[Exception] = []

    def drain() -> T:
        try:
            return sink(feed)
        finally:
            from_thread.run_sync(receive.close)

    async def write() -> None:
        try:
            outcome.append(await to_thread.run_sync(drain, limiter=limiter))
        except Exception as error:  # noqa: BLE001 - carried across the task group, which would wrap it; raised below
            failures.append(error)
            receive.close()

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        try:
            async for batch in batches(chunks):
                await send.send(batch)
            feed.whole = True
        except anyio.BrokenResourceError:
            pass  # The sink has stopped, and its error is raised below.
        except Exception as error:  # noqa: BLE001 - as above; put first, because the sink's BrokenPour follows from it
            failures.insert(0, error)
        finally:
            send.close()
    if failures:
        raise failures[0]
    return outcome[0]
