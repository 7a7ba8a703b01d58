"""A network too long for one protobuf message, as two files: the graph, and its large weights beside it.

Source: ONNX, docs/ExternalData.md. Works on the bytes alone, so that devices need no ONNX library for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from workers.pruning.graph.wire import Span, reference, skeleton

LARGEST_MESSAGE: Final = (1 << 31) - 1  # bytes of one protobuf message
_COMPANION_SUFFIX: Final = ".data"
_ALIGNMENT_BYTES: Final = 4096  # of a weight in its file, so that it can be mapped


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A network whose weights lie in a file beside it."""

    network: bytes
    weights: tuple[memoryview, ...]  # one after the other the file beside; padding included


def place_beside(network: Path) -> Path:
    """Give where the large weights of a network lie: the same name and `.data` behind."""
    return network.with_name(network.name + _COMPANION_SUFFIX)


def companion_of(network: Path) -> Path | None:
    """Give the file beside a network that holds its weights, if there is one."""
    beside = place_beside(network)
    return beside if beside.exists() else None


def split(content: bytes, location: str) -> Split:
    """Move the large weights of a network into a file of their own, called `location` in the network."""
    view = memoryview(content)
    weights: list[memoryview] = []
    offset = 0

    def moved(span: Span) -> bytes:
        nonlocal offset
        start, length = offset, span.stop - span.start
        padding = -length % _ALIGNMENT_BYTES
        weights.extend((view[span.start : span.stop], memoryview(bytes(padding))))
        offset += length + padding
        return reference(location, start, length)

    bare, _ = skeleton(view, instead=moved)
    return Split(network=bare, weights=tuple(weights))


def most_apart(num_weights: int, location: str) -> int:
    """Most bytes that two files have more than one, for so many large weights: references and padding."""
    return num_weights * (_ALIGNMENT_BYTES - 1 + len(reference(location, LARGEST_MESSAGE**2, LARGEST_MESSAGE**2)))


def write_split(content: bytes, path: Path) -> tuple[Path, Path]:
    """Write a network to `path` and its large weights to the file beside; gives both."""
    beside = place_beside(path)
    parts = split(content, beside.name)
    path.write_bytes(parts.network)
    with beside.open("wb") as file:
        for weight in parts.weights:
            file.write(weight)
    return path, beside


@contextmanager
def as_file_or_bytes(content: bytes) -> Iterator[bytes | str]:
    """Give a network in the form that libraries take: its bytes, or the path of a file where one message is too small.

    The files are gone when the context ends.
    """
    if len(content) <= LARGEST_MESSAGE:
        yield content
        return
    with TemporaryDirectory(prefix="espalier-") as folder:
        path, _ = write_split(content, Path(folder) / "network.onnx")
        yield str(path)
