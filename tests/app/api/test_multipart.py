"""A form is read part by part, whichever way its bytes were cut on the network."""

from collections.abc import AsyncIterator

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.multipart import FormReader, MalformedForm

BOUNDARY = "b0undary"
CONTENT_TYPE = f'multipart/form-data; boundary="{BOUNDARY}"'


async def in_pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def read(body: bytes, *, size: int = 7, content_type: str = CONTENT_TYPE) -> list[tuple[str, str | None, bytes]]:
    async def walk() -> list[tuple[str, str | None, bytes]]:
        form = FormReader(in_pieces(body, size), content_type)
        parts = []
        while (head := await form.next_part()) is not None:
            parts.append((head.name, head.filename, b"".join([chunk async for chunk in form.chunks()])))
        return parts

    return anyio.run(walk)


def encode(fields: dict[str, str], files: dict[str, tuple[str, bytes]]) -> tuple[bytes, str]:
    """The body and header as httpx, an independent writer of forms, makes them."""
    request = httpx.Request("POST", "http://test/", data=fields, files=files)
    return request.read(), request.headers["Content-Type"]


@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=5), st.text(max_size=30).filter(lambda t: "\x00" not in t)),
    st.binary(max_size=300),
    st.integers(1, 50),
)
def test_what_httpx_writes_is_read_back(fields: dict[str, str], content: bytes, size: int) -> None:
    """Fields and file come back byte for byte, in order, for every way to cut the body."""
    body, content_type = encode(fields, {"file": ("net.onnx", content)})

    parts = read(body, size=size, content_type=content_type)

    expected = [(name, None, value.encode()) for name, value in fields.items()]
    assert parts == [*expected, ("file", "net.onnx", content)]


@pytest.mark.parametrize("cut", [5, 60, 95, 130])
def test_a_body_that_was_cut_off_is_malformed(cut: int) -> None:
    """A form that ends before its closing boundary is refused wherever it was cut."""
    body, content_type = encode({}, {"file": ("net.onnx", b"x" * 100)})

    with pytest.raises(MalformedForm):
        read(body[:-cut], content_type=content_type)


def test_a_form_without_a_boundary_says_so() -> None:
    """The message names the header that lacks it."""
    with pytest.raises(MalformedForm, match="names no boundary"):
        read(b"", content_type="multipart/form-data")


def test_a_part_without_a_name_is_malformed() -> None:
    """Every part needs a name in its Content-Disposition header."""
    body = f"--{BOUNDARY}\r\nContent-Disposition: form-data\r\n\r\nx\r\n--{BOUNDARY}--\r\n".encode()

    with pytest.raises(MalformedForm, match="has no name"):
        read(body)


def test_unread_bytes_of_a_part_are_dropped() -> None:
    """Asking for the next part skips what was left of the one before."""
    body, content_type = encode({"a": "1", "b": "2"}, {"file": ("f", b"x" * 1000)})

    async def names() -> list[str]:
        form = FormReader(in_pieces(body, 11), content_type)
        found = []
        while (head := await form.next_part()) is not None:
            found.append(head.name)
        return found

    assert anyio.run(names) == ["a", "b", "file"]
