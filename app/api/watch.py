"""Watching jobs for many pollers at once: requests that come while a query runs share the next one.

One query serves everybody who asks at that moment, so polling costs less per request the more there
is of it, on either database, and a long poll holds no thread and no connection while it waits.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

from starlette.concurrency import run_in_threadpool

from app.domain.job import TERMINAL

Key = tuple[str, str]
Version = tuple[int, str]

# A waiting client hears of a change within this time; a job's progress is written once a second at most.
_LOOK_SECONDS = 0.25


Query = Callable[[Collection[Key]], Mapping[Key, Version]]
Read = Callable[[Collection[Key]], Awaitable[Mapping[Key, Version]]]


def at_once(query: Query) -> Read:
    """Run the query on the event loop itself: for SQLite, whose readers wait for nobody.

    In a thread each of the query's calls into SQLite would give up the interpreter's lock and wait for it again behind
    the busy event loop, for milliseconds each; the query as a whole takes less than one.
    """

    async def read(keys: Collection[Key]) -> Mapping[Key, Version]:
        return query(keys)

    return read


def in_a_thread(query: Query) -> Read:
    """Run the query in a thread: for a database behind a socket, which may let one wait."""

    async def read(keys: Collection[Key]) -> Mapping[Key, Version]:
        return await run_in_threadpool(query, keys)

    return read


class JobWatch:
    """Reads versions in batches; belongs to one event loop."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._asked: dict[Key, asyncio.Future[Version | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def version(self, key: Key) -> Version | None:
        """Version and state of the job as they are now, or None where there is no such job.

        Only those share a query who asked before it began, so nobody is given what was true before they asked.
        """
        answer = self._asked.get(key)
        if answer is None:
            answer = self._asked[key] = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.create_task(self._serve())
        return await asyncio.shield(answer)

    async def changed(self, key: Key, seen: int | None, *, wait_seconds: float) -> Version | None:
        """The same, once the job's version is another than `seen`, the job has ended, or the time is over.

        Whoever has seen nothing yet waits for the end.
        """
        deadline = asyncio.get_running_loop().time() + wait_seconds
        while True:
            found = await self.version(key)
            left = deadline - asyncio.get_running_loop().time()
            if found is None or found[1] in TERMINAL or left <= 0 or (seen is not None and found[0] != seen):
                return found
            await asyncio.sleep(min(_LOOK_SECONDS, left))

    async def _serve(self) -> None:
        try:
            while self._asked:
                batch, self._asked = self._asked, {}
                await self._answer(batch)
        finally:
            self._task = None

    async def _answer(self, batch: Mapping[Key, "asyncio.Future[Version | None]"]) -> None:
        try:
            found = await self._read(list(batch))
        except Exception as error:  # noqa: BLE001 - handed to everybody who asked
            for answer in batch.values():
                answer.set_exception(error)
                answer.exception()  # whoever asked may be gone by now
            return
        for key, answer in batch.items():
            answer.set_result(found.get(key))
