"""What the first bytes of an upload say: formats that are never parsed here are refused at the door, by name.

Nothing is opened and nothing is parsed; a file that passes is read by a worker's sandboxed child, and only there. The
first field of an ONNX file is a protobuf tag of a small field number, so none of these signatures can be one.
"""

import re
from dataclasses import dataclass

# A tar file says what it is at byte 257, so that much is needed to judge.
HEAD_BYTES = 512

# First members of what torch.save, torch.jit.save and torch.export.save write. A zip of pictures may well have a folder
# `archive/` or `code/`, so for a dataset only names count that no picture has.
_TORCH_MEMBERS = re.compile(
    rb"(^|/)(data\.pkl|constants\.pkl|version|byteorder|archive_format|archive_version|\.format_version|model\.json)$"
    rb"|(^|/)(code|\.data|data/(weights|constants|aotinductor))/|^archive/"
)
_PICKLED_MEMBERS = re.compile(
    rb"(^|/)(data\.pkl|constants\.pkl|byteorder|archive_format|\.format_version)$|(^|/)data/\d+$"
    rb"|^archive/data/(weights|constants)/"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """A format that we do not take: what it is, and what its owner can do."""

    what: str
    advice: str


_TO_ONNX = "convert it on your side (torch.onnx.export, or Client.upload_torch of app.client) and send the .onnx file"
_UNPACK_ONNX = "unpack it and send the .onnx file itself"
_AS_ZIP = "send a zip with one folder per class, or an .npz with arrays x and y"

_PICKLE = Foreign(what="a Python pickle (a .pt, .pth or .pkl file); loading one runs code", advice=_TO_ONNX)
_TORCH = Foreign(what="a PyTorch archive (.pt, .pth, TorchScript or .pt2); loading one can run code", advice=_TO_ONNX)

_COMPRESSED: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip data"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ\x00", "xz data"),
    (b"\x28\xb5\x2f\xfd", "zstandard data"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
)
_OTHER: tuple[tuple[bytes, str], ...] = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras .h5)"),
    (b"\x93NUMPY", "a single NumPy array (.npy)"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF-", "a PDF file"),
    (b"\x7fELF", "an executable"),
    (b"<!DOCTYPE", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file that it stands for"),
)


def _is_pickle(head: bytes) -> bool:
    """Whether it opens as pickles of protocol 2 to 5 do; torch.save writes protocol 2."""
    return len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5


def _first_member(head: bytes) -> bytes:
    """The name of a zip's first member, from its local header."""
    length = int.from_bytes(head[26:28], "little")
    return head[30 : 30 + length]


def _packed(head: bytes) -> str | None:
    """The kind of archive or compression, where it is one."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "a zip archive"
    return "a tar archive" if head[257:262] == b"ustar" else _named(head, _COMPRESSED)


def _weights_only(head: bytes) -> str | None:
    """The kind of file for which a signature at its start does not do."""
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite file"
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 1 << 32:
        return "a safetensors file: weights without a graph"
    return None


def _named(head: bytes, signatures: tuple[tuple[bytes, str], ...]) -> str | None:
    return next((what for magic, what in signatures if head.startswith(magic)), None)


def foreign_network(head: bytes) -> Foreign | None:
    """What an upload that should be ONNX is instead, or None where nothing speaks against it."""
    if _is_pickle(head):
        return _PICKLE
    if head.startswith(b"PK\x03\x04") and _TORCH_MEMBERS.search(_first_member(head)):
        return _TORCH
    if what := _packed(head):
        return Foreign(what=what, advice=_UNPACK_ONNX)
    if what := _named(head, _OTHER) or _weights_only(head):
        return Foreign(what=what, advice="send a network as a single .onnx file; torch.onnx and tf2onnx write one")
    return None


def foreign_dataset(head: bytes) -> Foreign | None:
    """What an upload that should be a zip or an .npz is instead, or None where it is one by its first bytes."""
    if head.startswith(b"PK\x03\x04"):
        return Foreign(what=_TORCH.what, advice=_AS_ZIP) if _PICKLED_MEMBERS.search(_first_member(head)) else None
    if _is_pickle(head):
        return Foreign(what=_PICKLE.what, advice=_AS_ZIP)
    if head.startswith(b"PK\x05\x06"):
        return Foreign(what="an empty zip archive", advice=_AS_ZIP)
    what = _packed(head) or _named(head, _OTHER) or _weights_only(head)
    return Foreign(what=what or "neither a zip nor an .npz archive", advice=_AS_ZIP)
