"""Measurements as Parquet: columns of figures and lists, hosts and profiles as JSON texts.

Source: arro3-io, the Rust parquet crate without pyarrow: 12 MB of wheels and no numpy, against 55 MB for pyarrow and as
much for polars, 24 MB for duckdb, and pandas with numpy for fastparquet. It is the extra `parquet`.

A file that comes in is read in a process of its own with a limit of memory and of time: the decoder ends its process on
a damaged file, and a small file may unpack to any size.
"""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, Final

from app.errors import FormatUnavailable, ValidationFailed

INTEGERS: Final = frozenset({"threads", "batch", "warmup", "peak_rss_bytes"})
NUMBERS: Final = frozenset({"p50_ms", "p90_ms", "p99_ms", "mean_ms", "load_ms"})
LISTS: Final = frozenset({"samples_ms", "p50_interval_ms"})
TEXT_LISTS: Final = frozenset({"unstable"})
OBJECTS: Final = frozenset({"host", "profile", "source"})  # as JSON
COMPRESSION: Final = "zstd(3)"
READ_SECONDS: Final = 60
READ_BYTES: Final = 256 * 1024 * 1024  # of the JSON that a file unpacks to


def require() -> None:
    """Pass if Parquet can be written and read here.

    Raises:
        FormatUnavailable: the extra is not installed; says how to.
    """
    try:
        importlib.import_module("arro3.io")
    except ImportError as error:
        raise FormatUnavailable(
            "This service was installed without Parquet.",
            advice="Its operator can add it with pip install 'espalier[parquet]'; JSON and CSV are always there.",
        ) from error


def write(pages: Iterator[Sequence[Mapping[str, Any]]], columns: Sequence[str], file: IO[bytes]) -> None:
    """Write measurements, a page at a time, to a file.

    Raises:
        FormatUnavailable: the extra is not installed.
    """
    require()
    core, io = importlib.import_module("arro3.core"), importlib.import_module("arro3.io")
    text, number = core.DataType.utf8(), core.DataType.float64()

    def schema() -> Any:
        kinds = {
            **dict.fromkeys(columns, text),
            **dict.fromkeys(INTEGERS, core.DataType.int64()),
            **dict.fromkeys(NUMBERS, number),
            **dict.fromkeys(LISTS, _lists(core, [[0.0]], number).type),
            **dict.fromkeys(TEXT_LISTS, _lists(core, [[""]], text).type),
        }
        return core.Schema([core.Field(name, kinds[name], nullable=True) for name in columns])

    shape = schema()
    batches = (
        core.RecordBatch.from_arrays([_column(core, name, page) for name in columns], schema=shape) for page in pages
    )
    io.write_parquet(core.RecordBatchReader.from_batches(shape, batches), file, compression=COMPRESSION)


def _column(core: Any, name: str, page: Sequence[Mapping[str, Any]]) -> Any:
    values = [entry.get(name) for entry in page]
    if name in INTEGERS:
        return core.Array(values, type=core.DataType.int64())
    if name in NUMBERS:
        return core.Array(values, type=core.DataType.float64())
    if name in LISTS:
        return _lists(core, values, core.DataType.float64())
    if name in TEXT_LISTS:
        return _lists(core, values, core.DataType.utf8())
    if name in OBJECTS:
        values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    return core.Array(values, type=core.DataType.utf8())


def _lists(core: Any, values: Sequence[Any], kind: Any) -> Any:
    """Give a column of lists."""
    offsets, flat = [0], list[Any]()
    for value in values:
        flat += value
        offsets.append(len(flat))
    return core.list_array(core.Array(offsets, type=core.DataType.int32()), core.Array(flat, type=kind))


def read(content: bytes) -> list[Any]:
    """Give the measurements of a Parquet file as an export has them.

    Raises:
        FormatUnavailable: the extra is not installed.
        ValidationFailed: it is no Parquet file, or takes too much memory or time to unpack.
    """
    require()
    command = [sys.executable, "-m", "app.services.parquet_reader"]
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=READ_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ValidationFailed(f"The Parquet file was not read within {READ_SECONDS} s.") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = next((line for line in reversed(said) if "Error" in line or "Exception" in line), "it is damaged")
        raise ValidationFailed(f"The Parquet file cannot be read: {why[:300]}")
    found: list[Any] = json.loads(done.stdout)
    return found
