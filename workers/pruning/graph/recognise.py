"""Tell what a file is by its first bytes, so that a wrong upload is answered with the right advice."""

import io
import zipfile
from typing import Final

from workers.pruning.errors import InvalidGraph

_CONVERT: Final = (
    "Convert it where it was trained: torch.onnx.export(module, example_inputs, 'net.onnx', dynamo=True), "
    "or Client.upload_torch of the espalier client, and upload the ONNX file."
)
_MAX_ENTRIES_READ: Final = 2000

_PREFIXES: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x89HDF\r\n", "an HDF5 file (Keras)"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x7fELF", "an executable"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"<!DOCTYPE", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML document"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file it points to"),
    (b"ORTM", "an ONNX Runtime (.ort) file"),
)


def refuse_other_formats(head: bytes, size: int, tail: bytes = b"") -> None:
    """Return when `head` may begin an ONNX file.

    Args:
        head: The first bytes of the file, at least 16 where it has them.
        size: Length of the whole file in bytes.
        tail: The whole file when it is a zip archive; used to tell the kinds of torch archives apart.

    Raises:
        InvalidGraph: the file is empty or is something else; the message names it and says how to convert it.
    """
    if size == 0:
        raise InvalidGraph("The file is empty", actual="0 bytes", advice="Upload the bytes of an ONNX file.")
    kind = _kind(head, tail)
    if kind is not None:
        raise InvalidGraph("The file is not ONNX", actual=kind, allowed="one ONNX file (.onnx)", advice=_CONVERT)


def _kind(head: bytes, whole: bytes) -> str | None:
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _archive_kind(whole)
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "a pickle (old torch.save or joblib); pickles are never loaded, because loading one runs its code"
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite file"
    return next((kind for prefix, kind in _PREFIXES if head.startswith(prefix)), None)


def _archive_kind(whole: bytes) -> str:
    """Name a zip archive by its table of contents; nothing is extracted."""
    try:
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            names = [entry.filename for entry in archive.infolist()[:_MAX_ENTRIES_READ]]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return "a damaged zip archive"
    parts = {part for name in names for part in name.split("/")}
    if any(name.endswith("models/model.json") for name in names) or "archive_format" in parts:
        return "a torch.export archive (.pt2); it is refused, because loading one can run code"
    if "code" in parts and ("constants.pkl" in parts or "data.pkl" in parts):
        return "a TorchScript archive; it is refused, because loading one runs code"
    if "data.pkl" in parts:
        return "a pickle in a zip archive (torch.save); pickles are never loaded, because loading one runs its code"
    if any(name.endswith(".onnx") for name in names):
        return "a zip archive that contains an ONNX file"
    return "a zip archive"
