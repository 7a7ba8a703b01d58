"""What outlives an agent: its name, and an answer that was not sent yet."""

import contextlib
import fcntl
import json
import logging
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

Json = dict[str, Any]

log = logging.getLogger("espalier.agent")


class FolderTaken(Exception):
    """Another agent works in this folder."""


@dataclass(slots=True, kw_only=True)
class WorkFolder:
    """What outlives the agent: who it is, and an answer that was not sent. A full disk costs that, and nothing else."""

    path: Path
    agent: str = field(default_factory=lambda: secrets.token_hex(16))
    _lock: IO[str] | None = None
    _held: Json | None = None

    def open(self) -> None:
        """Take the folder for this process.

        Raises:
            FolderTaken: another agent has it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / "lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FolderTaken(f"Another agent works in {self.path}; give this one its own --work-dir.") from error
        name = self.path / "agent"
        with contextlib.suppress(OSError):
            if name.exists() and (known := name.read_text().strip()).isalnum():
                self.agent = known
            else:
                name.write_text(self.agent)

    def keep(self, answer: Json) -> None:
        """Keep an answer until it is sent: on disk, or in memory where the disk is full."""
        self._held = answer
        part = self.path / "answer.part"
        try:
            with part.open("w") as file:
                json.dump(answer, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path / "answer.json")
        except OSError as error:
            log.warning("The answer is kept in memory only: %s", error)
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def unsent(self) -> Json | None:
        """Give the answer that waits to be sent, or None."""
        if self._held is None:
            with contextlib.suppress(OSError, ValueError):
                self._held = json.loads((self.path / "answer.json").read_text())
        return self._held

    def sent(self) -> None:
        """Forget the answer: the service has it."""
        self._held = None
        (self.path / "answer.json").unlink(missing_ok=True)
