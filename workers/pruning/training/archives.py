"""Uploaded archives as data: the directory is judged before a byte is inflated, and real bytes are counted after."""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, Self

from workers.pruning.errors import InvalidDataset

END_RECORD: Final = struct.Struct("<4s4H2LH")
END_RECORD_64: Final = struct.Struct("<4sQ2H2L4Q")
LOCATOR_64: Final = struct.Struct("<4sLQL")
LONGEST_COMMENT: Final = 1 << 16
COMPRESSIONS: Final = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
ARCHIVE_SUFFIXES: Final = frozenset(
    {".zip", ".npz", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".jar", ".whl"}
)
CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DataLimits:
    """What an uploaded dataset may ask of the machine."""

    max_entries: int = 200_000
    max_directory_bytes: int = 64 << 20
    max_member_bytes: int = 4 << 30
    max_total_bytes: int = 16 << 30
    max_ratio: int = 100  # declared size : compressed size of one member
    ratio_floor_bytes: int = 8 << 20  # smaller members may compress as well as they like: sorted labels do
    max_image_pixels: int = 64 << 20
    max_decoded_bytes: int = 4 << 30  # all samples as they lie in memory


class Archive:
    """A zip whose directory has passed `check_directory`; members are read under their declared size.

    Use it as a context manager. `names` are the members that count: no folders, nothing hidden, no `__MACOSX`.
    """

    def __init__(self, path: Path, limits: DataLimits) -> None:
        self.limits = limits
        self._file = path.open("rb")
        try:
            check_end_record(self._file, limits)
            self._zip = zipfile.ZipFile(self._file)
            check_directory(self._zip.infolist(), limits)
        except (
            zipfile.BadZipFile,
            UnicodeDecodeError,
            struct.error,
            NotImplementedError,
            ValueError,
            OSError,
        ) as error:
            self._file.close()
            raise unreadable(f"the archive's directory cannot be read ({error})") from error
        except InvalidDataset:
            self._file.close()
            raise
        self._members = {i.filename: i for i in self._zip.infolist() if not i.is_dir() and not is_hidden(i.filename)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all members that count, sorted."""
        return tuple(sorted(self._members))

    def size(self, name: str) -> int:
        """Return the declared size of a member in bytes."""
        return self._members[name].file_size

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a member for reading in order; what is wrong with its bytes is raised as InvalidDataset."""
        try:
            with self._zip.open(self._members[name]) as stream:
                yield stream  # type: ignore[misc]  # IO[bytes] is what BinaryIO means here
        except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError) as error:
            raise InvalidDataset(
                "A member of the archive is damaged", where=name, actual=str(error), advice="Make the archive again."
            ) from error

    def read(self, name: str) -> bytes:
        """Return all bytes of a member.

        Raises:
            InvalidDataset: the member is damaged or does not hold as many bytes as the directory declares.
        """
        with self.open(name) as stream:
            data = bytearray()
            while chunk := stream.read(CHUNK_BYTES):
                data += chunk
                require_declared(len(data), self.size(name), name, more_allowed=True)
        require_declared(len(data), self.size(name), name, more_allowed=False)
        return bytes(data)


def require_declared(count: int, declared: int, name: str, *, more_allowed: bool) -> None:
    """Raise unless the bytes counted so far (or in all) fit the declared size of a member."""
    if count > declared or (count < declared and not more_allowed):
        raise InvalidDataset(
            "A member does not hold the number of bytes that its archive declares",
            where=name,
            actual=f"{count} bytes",
            allowed=f"{declared} bytes",
            advice="Make the archive again.",
        )


def unreadable(detail: str) -> InvalidDataset:
    """Give the error for an upload that is no zip at all."""
    return InvalidDataset(
        "The dataset is not a readable zip or .npz file",
        actual=detail,
        advice="Upload a zip with one folder of images per class, or np.savez_compressed(file, x=x, y=y).",
    )


def check_end_record(file: BinaryIO, limits: DataLimits) -> None:
    """Refuse a directory that is itself too large, before anything parses it.

    Source: PKWARE APPNOTE 6.3.10, sections 4.3.14 to 4.3.16; the record is sought where Python's zipfile seeks it.

    Raises:
        InvalidDataset: no end record, or more entries or directory bytes than allowed.
    """
    size = file.seek(0, io.SEEK_END)
    start = max(0, size - END_RECORD.size - LONGEST_COMMENT)
    file.seek(start)
    tail = file.read()
    position = find_end_record(tail)
    _, _, _, _, entries, directory_bytes, _, _ = END_RECORD.unpack_from(tail, position)
    locator = start + position - LOCATOR_64.size
    if locator >= END_RECORD_64.size:
        file.seek(locator - END_RECORD_64.size)
        record = file.read(END_RECORD_64.size + LOCATOR_64.size)
        if record[END_RECORD_64.size :].startswith(b"PK\x06\x07") and record.startswith(b"PK\x06\x06"):
            fields = END_RECORD_64.unpack_from(record)
            entries, directory_bytes = fields[7], fields[8]
    file.seek(0)
    refuse_above(entries, limits.max_entries, "entries", "The archive has too many entries")
    refuse_above(directory_bytes, limits.max_directory_bytes, "bytes", "The archive's directory is too large")


def find_end_record(tail: bytes) -> int:
    """Return where the end-of-directory record begins in the last bytes of a zip."""
    last = len(tail) - END_RECORD.size
    if last >= 0 and tail[last:].startswith(b"PK\x05\x06") and tail.endswith(b"\x00\x00"):
        return last
    position = tail.rfind(b"PK\x05\x06")
    if position < 0 or position > last:
        raise unreadable("no zip directory at the end of the file: another format, or truncated")
    return position


def check_directory(entries: list[zipfile.ZipInfo], limits: DataLimits) -> None:
    """Judge every entry of the directory: names, links, encryption, nesting, declared sizes.

    Raises:
        InvalidDataset: names the first entry that is refused and why.
    """
    refuse_above(len(entries), limits.max_entries, "entries", "The archive has too many entries")
    seen: set[str] = set()
    total = 0
    for entry in entries:
        check_name(entry.orig_filename)
        if entry.filename in seen:
            raise InvalidDataset("Two members of the archive have the same name", where=entry.filename)
        seen.add(entry.filename)
        check_kind(entry)
        if not entry.is_dir():
            check_size(entry, limits)
        total += entry.file_size
    refuse_above(total, limits.max_total_bytes, "bytes", "The archive unpacks to too much")


def check_name(name: str) -> None:
    """Refuse names that would leave the archive, or that two systems read differently."""
    parts = PurePosixPath(name).parts
    absolute = name.startswith("/") or (len(name) > 1 and name[1] == ":")
    if not parts or absolute or ".." in parts or "\\" in name or not name.isprintable():
        raise InvalidDataset(
            "A member's name is absolute, contains '..' or a backslash, or is not printable",
            where=ascii(name),
            allowed="relative names with '/' between folders",
        )


def check_kind(entry: zipfile.ZipInfo) -> None:
    """Refuse links, devices, encrypted members, unusual compression and archives in archives."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise InvalidDataset("A member is a link or a special file", where=entry.filename, allowed="plain files")
    if entry.flag_bits & 0x41:
        raise InvalidDataset(
            "A member is encrypted", where=entry.filename, advice="Upload an archive without password."
        )
    if entry.compress_type not in COMPRESSIONS:
        raise InvalidDataset(
            "A member is compressed in a way that is not read here",
            where=entry.filename,
            actual=f"zip method {entry.compress_type}",
            allowed=", ".join(COMPRESSIONS.values()),
        )
    if PurePosixPath(entry.filename).suffix.lower() in ARCHIVE_SUFFIXES and not is_hidden(entry.filename):
        raise InvalidDataset(
            "The archive contains another archive",
            where=entry.filename,
            advice="Put the files themselves into the zip.",
        )


def check_size(entry: zipfile.ZipInfo, limits: DataLimits) -> None:
    """Refuse a member that declares too many bytes, alone or against its compressed size."""
    refuse_above(entry.file_size, limits.max_member_bytes, "bytes", "A member is too large", entry.filename)
    if entry.file_size > limits.ratio_floor_bytes:
        ratio = entry.file_size / max(entry.compress_size, 1)
        refuse_above(int(ratio), limits.max_ratio, ": 1", "A member is compressed too well to be data", entry.filename)


def refuse_above(actual: int, allowed: int, unit: str, detail: str, where: str = "") -> None:
    """Raise InvalidDataset if a count exceeds its cap."""
    if actual > allowed:
        raise InvalidDataset(detail, where=where, actual=f"{actual:,} {unit}", allowed=f"at most {allowed:,} {unit}")


def is_hidden(name: str) -> bool:
    """Say whether a member is an operating system's leftover."""
    parts = PurePosixPath(name).parts
    return (
        any(part.startswith(".") for part in parts) or "__MACOSX" in parts or parts[-1] in {"Thumbs.db", "desktop.ini"}
    )
