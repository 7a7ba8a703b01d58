"""Exports of measurements, and the reading of such exports: JSON, CSV, Parquet with the same columns."""

import csv
import io
import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from app.api import device_schemas, documents
from app.api.json_body import read_json
from app.api.receive import MalformedBody
from app.errors import FieldError, UnsupportedFormat, ValidationFailed
from app.services import parquet

Pages = Iterator[Sequence[Mapping[str, Any]]]

COLUMNS: Final = tuple(device_schemas.Measurement.model_fields)
MEDIA_TYPES: Final = {
    "json": "application/json",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
}
_IN_JSON: Final = parquet.LISTS | parquet.TEXT_LISTS | parquet.OBJECTS  # cells of a CSV
_FIGURES: Final = parquet.INTEGERS | parquet.NUMBERS
_NEEDED: Final = frozenset({"id", "sha256", "device", "samples_ms", "host"})  # headings of a CSV, at least
_FORMULA: Final = ("=", "+", "-", "@")
_READ_BYTES: Final = 256 * 1024
_IN_MEMORY_BYTES: Final = 1024 * 1024
_LONGEST_CELL: Final = 16 * 1024 * 1024


def as_json(pages: Pages) -> Iterator[str]:
    """An array of documents."""
    yield "["
    separator = ""
    for page in pages:
        for each in page:
            yield separator + documents.text(dict(each))
            separator = ","
    yield "]"


def as_csv(pages: Pages) -> Iterator[str]:
    """A table with a line of headings."""
    held = io.StringIO()
    writer = csv.writer(held)
    writer.writerow(COLUMNS)
    for page in pages:
        for each in page:
            writer.writerow([_cell(each.get(column)) for column in COLUMNS])
        yield held.getvalue()
        held.seek(0)
        held.truncate()


def as_parquet(pages: Pages) -> Iterator[bytes]:
    """A Parquet file, which is made whole before it is sent: its index is at its end."""
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as file:
        parquet.write(pages, COLUMNS, file)
        file.seek(0)
        while chunk := file.read(_READ_BYTES):
            yield chunk


def first_then(first: Sequence[Mapping[str, Any]], rest: Pages) -> Pages:
    """The pages, of which the first is here already."""
    return itertools.chain([first], rest)


def read_export(content: bytes, media_type: str) -> list[object]:
    """The records of an export in one of its forms.

    Raises:
        UnsupportedFormat: in none of them.
        MalformedBody: it is not what it is announced as.
        ValidationFailed: it is no list of records.
        FormatUnavailable: it is Parquet, which was not installed here.
    """
    if media_type in {"", MEDIA_TYPES["json"]}:
        found = read_json(content, where="The body")
        if not isinstance(found, list):
            raise ValidationFailed("The body is no array of measurements.", advice="Send what the export gave.")
        return found
    if media_type == MEDIA_TYPES["csv"]:
        return list(_read_csv(content))
    if media_type == MEDIA_TYPES["parquet"]:
        return [_present(record) for record in parquet.read(content)]
    allowed = ", ".join(MEDIA_TYPES.values())
    raise UnsupportedFormat(f"The body is announced as {media_type[:80]!r}; allowed are {allowed}.")


def _read_csv(content: bytes) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(_LONGEST_CELL)
    try:
        table = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        headings, rows = table.fieldnames or (), list(table)
    except (UnicodeDecodeError, csv.Error) as error:
        raise MalformedBody(f"The body is no CSV in UTF-8: {error}.") from error
    if not set(headings) >= _NEEDED:
        missing = ", ".join(sorted(_NEEDED - set(headings)))
        raise ValidationFailed(f"The headings are not those of an export: there is no {missing}.")
    for number, row in enumerate(rows):
        if None in row or None in row.values():
            raise ValidationFailed(f"Row {number} has another number of cells than the headings.")
        yield _present({name: _value(name, cell, number) for name, cell in row.items()})


def _present(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without the columns that are empty: a table has no other way to say that something is not there."""
    return {name: value for name, value in record.items() if value is not None and value != ""}


def _value(name: str, cell: str, number: int) -> Any:
    if name in _IN_JSON and cell:
        try:
            return read_json(cell, where=f"The cell {name} of row {number}")
        except MalformedBody as error:
            raise ValidationFailed(
                str(error), errors=[FieldError(pointer=f"/{number}/{name}", message=str(error))]
            ) from error
    if name in _FIGURES:
        return cell
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


def _cell(value: object) -> object:
    """A cell: lists and objects as JSON; a text that a spreadsheet would run as a formula is quoted."""
    if isinstance(value, dict | list | tuple):
        return json.dumps(value)
    return f"'{value}" if isinstance(value, str) and value[:1] in _FORMULA else value
