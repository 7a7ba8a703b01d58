"""A network as files: what was uploaded, and what is shipped. Either is one file, or one with its weights beside it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from workers.pruning.graph.external import content_of
from workers.pruning.graph.split import LARGEST_MESSAGE, companion_of, write_split
from workers.pruning.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The uploaded network: its content with the weights in place, and the digests of the files it came in."""

    content: bytes
    sha256: str
    size_bytes: int
    companion_sha256: str | None

    @classmethod
    def of(cls, network: Path) -> "Source":
        """Read an upload.

        Raises:
            ExternalData: its weights cannot be found in its companion.
        """
        companion = companion_of(network)
        return cls(
            content=content_of(network),
            sha256=_digest(network),
            size_bytes=network.stat().st_size + (0 if companion is None else companion.stat().st_size),
            companion_sha256=None if companion is None else _digest(companion),
        )


def ship(content: bytes, path: Path, *, apart: bool) -> dict[str, Json]:
    """Write a pruned network to `path`, with its weights beside it if that was asked for or one file cannot hold them.

    Gives `file`, `sha256` and `size_bytes`; the latter counts both files, and `external_data` names the second.
    """
    if not apart and len(content) <= LARGEST_MESSAGE:
        path.write_bytes(content)
        return {"file": path.name, "sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    network, companion = write_split(content, path)
    return {
        "file": path.name,
        "sha256": _digest(network),
        "size_bytes": network.stat().st_size + companion.stat().st_size,
        "external_data": {
            "file": companion.name,
            "sha256": _digest(companion),
            "size_bytes": companion.stat().st_size,
        },
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
