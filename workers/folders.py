"""The folder of one attempt: laid out for the child, read with suspicion afterwards, and removed.

The child writes here, and whatever it was made to do by an upload, the supervisor must not follow: it opens files by
their plain name below a folder that is itself no link, and takes regular files only. Inputs are copies, not hard
links, because whoever can write to a link can change the store.
"""

import contextlib
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from workers.pruning.types import Json

NETWORK: Final = "network.onnx"
DATASET: Final = "dataset"
SPEC: Final = "spec.json"
CHECKPOINTS: Final = "checkpoints"
OUT: Final = "out"
SCRATCH: Final = "tmp"
ASKED: Final = "asked"  # networks that the child wants timed
ANSWERS: Final = "answers"
_FOLDERS: Final = (CHECKPOINTS, OUT, SCRATCH, ASKED, ANSWERS)


class NotAPlainFile(Exception):
    """The child left something that is no regular file below its folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFolder:
    """Where one attempt works; locked while its supervisor lives, so that what a dead one left can be told apart."""

    path: Path
    lock: int

    @classmethod
    def make(cls, parent: Path, name: str) -> "JobFolder":
        """Give a new folder that only this user can enter; what an earlier process left under its name goes."""
        parent.mkdir(parents=True, exist_ok=True)
        path = parent.resolve() / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o700)
        for folder in _FOLDERS:
            (path / folder).mkdir()
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return cls(path=path, lock=lock)

    def write_order(self, order: Mapping[str, Json]) -> None:
        """Write what the child is to do."""
        (self.path / SPEC).write_text(json.dumps(order))

    @contextlib.contextmanager
    def opened(self, folder: str, name: str) -> Iterator[BinaryIO]:
        """Give a file that the child left, for reading.

        Raises:
            NotAPlainFile: the name leads elsewhere, or there is no regular file of that name.
        """
        if Path(name).name != name or name in {"", ".", ".."}:
            raise NotAPlainFile(f"{name[:80]!r} is not the name of a file in {folder}")
        try:
            inside = os.open(self.path / folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                number = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=inside)
            finally:
                os.close(inside)
        except OSError as error:
            raise NotAPlainFile(f"{folder}/{name[:80]} cannot be read ({error.strerror})") from error
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise NotAPlainFile(f"{folder}/{name[:80]} is not a regular file")
        with os.fdopen(number, "rb") as file:
            yield file

    def answer(self, name: str, content: bytes) -> None:
        """Give the child the answer to a question: whole, or not at all, and nowhere but in its folder of answers.

        Raises:
            NotAPlainFile: the child made something else of that folder.
        """
        try:
            inside = os.open(self.path / ANSWERS, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise NotAPlainFile(f"{ANSWERS} cannot be written to ({error.strerror})") from error
        try:
            part = f"{name}.part"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part, dir_fd=inside)
            number = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=inside)
            with os.fdopen(number, "wb") as file:
                file.write(content)
            os.rename(part, name, src_dir_fd=inside, dst_dir_fd=inside)
        finally:
            os.close(inside)

    def remove(self) -> None:
        """Remove everything; rmtree follows no links."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock)


def remove_abandoned(parent: Path, *, now: float, older_than: float) -> int:
    """Remove the folders below `parent` whose supervisor is gone; gives how many.

    Units: `now` in seconds of the wall clock, as the file system states times; `older_than` in seconds. Younger
    folders stay, because there is a moment between the making of a folder and its lock.
    """
    count = 0
    for path in parent.iterdir() if parent.is_dir() else ():
        with contextlib.suppress(OSError):
            if now - path.stat().st_mtime > older_than and _is_abandoned(path):
                shutil.rmtree(path, ignore_errors=True)
                count += 1
    return count


def _is_abandoned(path: Path) -> bool:
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(number)
    return True
