"""The state of an attempt on disk: one file per step, safetensors with JSON inside, never anything executable.

One file holds arrays and plain state together, so that one rename makes both visible at once. The supervisor copies
each announced file to the blob store and lays it into the folder of the next attempt; a file that cannot be read there
is as good as none, since every step can be computed again.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from workers.pruning.types import Json, Memo

Emit = Callable[[Mapping[str, Json]], None]
SUFFIX: Final = ".safetensors"
_FORMAT: Final = 1
_HEADER: Final = "espalier"
_PLAIN_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")


def file_name(step: str) -> str:
    """Give the file name of a step: the step itself where that is a safe name, else its digest."""
    stem = step if _PLAIN_NAME.fullmatch(step) else hashlib.sha256(step.encode()).hexdigest()
    return stem + SUFFIX


@dataclass(frozen=True, slots=True, kw_only=True)
class FileJournal:
    """The engine's Journal in a folder; announces each checkpoint, so that it outlives this machine's process."""

    folder: Path
    emit: Emit

    def recall(self, step: str) -> Memo | None:
        """Return what an earlier attempt recorded for `step`; None, with a warning, where it cannot be read."""
        path = self.folder / file_name(step)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return decode(content, step)
        except (SafetensorError, ValueError, KeyError) as error:
            self._warn(step, f"The checkpoint of step {step!r} cannot be read ({error}); the step is computed again.")
            return None

    def record(self, step: str, memo: Memo) -> None:
        """Keep `memo` for `step`, replacing an older one; durable when it returns.

        A checkpoint saves time and nothing else: where the disk has no room for it, a warning is all that happens.
        """
        path = self.folder / file_name(step)
        try:
            _write_whole(path, encode(step, memo))
        except OSError as error:
            self._warn(step, f"The checkpoint of step {step!r} could not be written ({error.strerror}); work goes on.")
            return
        self.emit({"event": "checkpoint", "step": step, "files": [path.name]})

    def _warn(self, step: str, message: str) -> None:
        self.emit({"event": "warning", "code": "checkpoint-lost", "step": step, "message": message})


def encode(step: str, memo: Memo) -> bytes:
    """Give the bytes of a checkpoint; the same memo gives the same bytes."""
    arrays = {name: np.ascontiguousarray(array) for name, array in sorted(memo.arrays.items())}
    shapes = {name: list(np.shape(array)) for name, array in memo.arrays.items()}
    header = {"format": _FORMAT, "step": step, "shapes": shapes, "state": memo.state}
    # One entry, because the library writes several in no fixed order.
    return save_arrays(arrays, metadata={_HEADER: json.dumps(header, sort_keys=True)})


def decode(content: bytes, step: str) -> Memo:
    """Give the memo of a checkpoint's bytes.

    Raises:
        ValueError: the bytes are of another step or another format.
        SafetensorError: the bytes are damaged.
    """
    arrays = load_arrays(content)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_HEADER])
    if (header["format"], header["step"]) != (_FORMAT, step):
        raise ValueError(f"it is of format {header['format']} and step {header['step']!r}")
    return Memo(
        arrays={name: array.reshape(header["shapes"][name]) for name, array in arrays.items()}, state=header["state"]
    )


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".partial")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
