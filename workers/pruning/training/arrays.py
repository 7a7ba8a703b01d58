"""Arrays of an uploaded .npz: header judged first, then read once, row block by row block, never unpickled."""

import math
from dataclasses import dataclass
from typing import BinaryIO, Final

import numpy as np

from workers.pruning.errors import InvalidDataset
from workers.pruning.training.archives import Archive, refuse_above
from workers.pruning.types import AnyArray

NUMERIC_KINDS: Final = "biuf"
BLOCK_BYTES: Final = 8 << 20
MAX_RANK: Final = 8
LONGEST_HEADER: Final = 10_000  # numpy's own bound for headers that it does not trust


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayHeader:
    """What an .npy member says about itself."""

    name: str  # without .npy
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran_order: bool

    @property
    def size_bytes(self) -> int:
        """Bytes of the array's elements."""
        return math.prod(self.shape) * self.dtype.itemsize


def array_names(archive: Archive) -> tuple[str, ...]:
    """Return the names of all arrays at the top of the archive, without their suffix."""
    return tuple(name.removesuffix(".npy") for name in archive.names if name.endswith(".npy") and "/" not in name)


def read_header(archive: Archive, name: str) -> ArrayHeader:
    """Read and judge the header of one array, without its elements.

    Raises:
        InvalidDataset: not an .npy member, an object or other non-numeric dtype, too many axes, a size that does not
            fit the member or the limits.
    """
    with archive.open(f"{name}.npy") as stream:
        header, offset = parse_header(stream, name)
    declared = archive.size(f"{name}.npy") - offset
    refuse_above(header.size_bytes, archive.limits.max_member_bytes, "bytes", "An array is too large", name)
    if header.size_bytes != declared:
        raise InvalidDataset(
            "An array's header does not fit its bytes",
            where=name,
            actual=f"{declared:,} bytes",
            allowed=f"{header.size_bytes:,} bytes for {header.dtype}{list(header.shape)}",
            advice="Save the file again with np.savez.",
        )
    return header


def parse_header(stream: BinaryIO, name: str) -> tuple[ArrayHeader, int]:
    """Parse the .npy header at the start of a stream; returns it and the number of bytes it took."""
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=LONGEST_HEADER)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream, max_header_size=LONGEST_HEADER)
        else:
            raise InvalidDataset("An array has a header version that is not read here", where=name, actual=version)
    except (ValueError, TypeError, SyntaxError, OverflowError) as error:
        raise InvalidDataset("A member is not a numpy array", where=name, actual=str(error)) from error
    require_numeric(dtype, name)
    if len(shape) > MAX_RANK or any(length < 0 for length in shape):
        raise InvalidDataset(
            "An array has an impossible shape", where=name, actual=shape, allowed=f"rank <= {MAX_RANK}"
        )
    return ArrayHeader(name=name, shape=tuple(shape), dtype=dtype, fortran_order=fortran), stream.tell()


def require_numeric(dtype: np.dtype[np.generic], name: str) -> None:
    """Refuse dtypes that are no plain numbers; object arrays would have to be unpickled, which runs code."""
    if dtype.hasobject or dtype.kind not in NUMERIC_KINDS or dtype.itemsize > np.dtype(np.float64).itemsize:
        raise InvalidDataset(
            "An array has a dtype that is not read here",
            where=name,
            actual=str(dtype),
            allowed="bool, integers, float16, float32, float64",
            advice="Pickled objects are never loaded; convert with astype before saving.",
        )


def read_array(archive: Archive, header: ArrayHeader) -> AnyArray:
    """Read one array whole; float64 becomes float32 on the way, all else keeps its dtype, in native byte order.

    Shapes: as the header says, C order.

    Raises:
        InvalidDataset: the member is damaged or short, or its floats are not finite (the first such row is named).
    """
    kept = np.dtype(np.float32) if header.dtype == np.float64 else header.dtype.newbyteorder("=")
    flat = np.empty(math.prod(header.shape), dtype=kept)
    block = BLOCK_BYTES // header.dtype.itemsize
    with archive.open(f"{header.name}.npy") as stream:
        parse_header(stream, header.name)
        for start in range(0, flat.size, block):
            stop = min(start + block, flat.size)
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused below
                flat[start:stop] = read_block(stream, header, stop - start)
        if stream.read(1):  # reading to the end also checks the checksum
            raise InvalidDataset("An array has more bytes than its header says", where=header.name)
    array = flat.reshape(header.shape[::-1]).T.copy() if header.fortran_order else flat.reshape(header.shape)
    require_finite(array, header.name)
    return array


def read_block(stream: BinaryIO, header: ArrayHeader, count: int) -> AnyArray:
    """Read the next `count` elements."""
    data = stream.read(count * header.dtype.itemsize)
    if len(data) != count * header.dtype.itemsize:
        raise InvalidDataset("An array ends early", where=header.name, advice="Save the file again with np.savez.")
    return np.frombuffer(data, dtype=header.dtype)


def require_finite(array: AnyArray, name: str) -> None:
    """Refuse NaN and infinity, naming the first row that has one."""
    if array.dtype.kind != "f":
        return
    rows = max(1, BLOCK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        finite = np.isfinite(array[start : start + rows])
        if not finite.all():
            row = start + int(np.argwhere(~finite)[0][0])
            raise InvalidDataset(
                "An array contains NaN or infinite values",
                where=f"{name}[{row}]",
                actual=str(array[row][~np.isfinite(array[row])].flat[0]) if array.ndim > 1 else str(array[row]),
                allowed="finite numbers",
            )
