"""`python -m app.services.parquet_reader`: a Parquet file on standard input, its rows as JSON on standard output.

A process of its own, with limits: what it reads was sent by somebody.
"""

import importlib
import io
import json
import resource
import sys
from typing import Any

from app.services.parquet import INTEGERS, LISTS, NUMBERS, OBJECTS, READ_BYTES, READ_SECONDS, TEXT_LISTS

_MEMORY_BYTES = 1024 * 1024 * 1024
_BATCH_ROWS = 64
_FIGURES = INTEGERS | NUMBERS | LISTS | TEXT_LISTS


def main() -> None:
    """Read, within limits of memory, time and output."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (READ_SECONDS, READ_SECONDS))
    reader = importlib.import_module("arro3.io").read_parquet(
        io.BytesIO(sys.stdin.buffer.read()), batch_size=_BATCH_ROWS
    )
    written, separator = sys.stdout.write("["), ""
    for batch in reader:
        names = batch.column_names
        columns = [batch.column(name).to_pylist() for name in names]
        for values in zip(*columns, strict=True):
            row = {name: _read(name, value) for name, value in zip(names, values, strict=True)}
            written += sys.stdout.write(separator + json.dumps(row, default=str))
            separator = ","
            if written > READ_BYTES:
                msg = f"ValueError: more than {READ_BYTES} bytes"
                raise ValueError(msg)
    sys.stdout.write("]")


def _read(name: str, value: Any) -> Any:
    return json.loads(value) if name in OBJECTS and isinstance(value, str) and value else value


if __name__ == "__main__":
    main()
