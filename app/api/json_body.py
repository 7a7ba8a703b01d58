"""A request's JSON text as the object that the domain's models judge."""

import json
from collections.abc import Iterator
from typing import Any, Never

from app.api.receive import MalformedBody
from app.errors import FieldError, ValidationFailed, json_pointer


def _no_constant(name: str) -> Never:
    raise ValueError(f"{name} is no JSON value")


def read_json(text: bytes | str, *, where: str) -> Any:
    """The value that the text holds.

    Raises:
        MalformedBody: it is no JSON, with the place where it stops being it.
        ValidationFailed: a text in it holds NUL or half of a surrogate pair, which cannot be stored.
    """
    if not text.strip():
        raise MalformedBody(f"{where} is empty; a JSON object is needed.")
    try:
        value = json.loads(text, parse_constant=_no_constant)
        unstorable = next(_unstorable(value, ()), None)
    except RecursionError as error:
        raise MalformedBody(f"{where} is nested too deeply.") from error
    except ValueError as error:
        raise MalformedBody(f"{where} is no JSON: {error}.") from error
    if unstorable is not None:
        message = "holds NUL or half of a surrogate pair"
        field = FieldError(pointer=unstorable, message=message)
        raise ValidationFailed(f"{unstorable or where}: {message}.", errors=[field])
    return value


def _unstorable(value: Any, place: tuple[str | int, ...]) -> Iterator[str]:
    if isinstance(value, str):
        if "\x00" in value or any("\ud800" <= char <= "\udfff" for char in value):
            yield json_pointer(place)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _unstorable(item, (*place, number))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _unstorable(key, place)
            yield from _unstorable(item, (*place, key))
