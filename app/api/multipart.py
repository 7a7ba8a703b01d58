"""Reading multipart/form-data part by part, in flat memory: no part is held whole, none touches a temporary file."""

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header


class MalformedForm(Exception):
    """The body is not the multipart/form-data that its header announces; the message says where it went wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartHead:
    """What stands above a part's bytes: the field's name and, for a file, the name it had at the sender."""

    name: str
    filename: str | None


class _End:
    """Marks the end of a part in the row of things read."""


_Item = PartHead | bytes | _End


class FormReader:
    """Walks a multipart body: `next_part()`, then that part's bytes by `chunks()`, in the order in which they came."""

    def __init__(self, body: AsyncIterator[bytes], content_type: str) -> None:
        self._body = body
        self._items: deque[_Item] = deque()
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        self._finished = False
        self._parser = self._make_parser(content_type)

    def _make_parser(self, content_type: str) -> MultipartParser:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise MalformedForm("the Content-Type header names no boundary; let the HTTP client write that header")
        try:
            return MultipartParser(
                boundary,
                {
                    "on_part_data": self._on_data,
                    "on_part_end": lambda: self._items.append(_End()),
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_head,
                },
            )
        except FormParserError as error:
            raise MalformedForm(str(error)) from error

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._items.append(data[start:end])

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if bytes(self._header_name).lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _on_head(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._disposition = b""
        name = options.get(b"name")
        if name is None:
            raise MalformedForm("a part's Content-Disposition header has no name")
        filename = options.get(b"filename")
        self._items.append(
            PartHead(
                name=name.decode("utf-8", "replace"),
                filename=None if filename is None else filename.decode("utf-8", "replace"),
            )
        )

    async def _read(self) -> _Item | None:
        """Take the next thing read, feeding the parser as needed; None once the body has ended as a form should."""
        while not self._items:
            if self._finished:
                return None
            chunk = await anext(self._body, None)
            try:
                if chunk is None:
                    self._finished = True
                    self._parser.finalize()
                else:
                    self._parser.write(chunk)
            except FormParserError as error:
                raise MalformedForm(str(error)) from error
        return self._items.popleft()

    async def next_part(self) -> PartHead | None:
        """The head of the next part, or None after the last; what was left unread of the part before is dropped."""
        while (item := await self._read()) is not None:
            if isinstance(item, PartHead):
                return item
        return None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes of the part whose head was taken last.

        Raises:
            MalformedForm: the body ends inside the part.
        """
        while (item := await self._read()) is not None:
            if isinstance(item, _End):
                return
            if isinstance(item, bytes):
                yield item
        raise MalformedForm("the body ends inside a part; it was cut off on the way")
