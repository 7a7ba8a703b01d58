"""Names in a file must be text: protobuf lets other bytes pass, and everything behind it fails on them."""

from collections.abc import Iterable

from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]

from workers.pruning.errors import InvalidGraph


def check_text(message: Message) -> None:
    """Return when every string in a message, at any depth, is UTF-8.

    Raises:
        InvalidGraph: one is not; the message names its field.
    """
    stack = [message]
    while stack:
        for field, content in stack.pop().ListFields():
            if field.type == FieldDescriptor.TYPE_STRING:
                _check_strings(field, content)
            elif field.type == FieldDescriptor.TYPE_MESSAGE:
                stack.extend(_entries(field, content))


def _check_strings(field: FieldDescriptor, content: object) -> None:
    for text in _entries(field, content):
        if not isinstance(text, str):
            raise InvalidGraph(
                "A name in the file is not text",
                where=str(field.full_name),
                actual=repr(text)[:80],
                allowed="UTF-8",
                advice="The file is damaged; compare its digest with the original and upload it again.",
            )


def _entries(field: FieldDescriptor, content: object) -> list[object]:
    return list(content) if field.is_repeated and isinstance(content, Iterable) else [content]
