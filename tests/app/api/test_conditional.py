"""Conditions and ranges follow RFC 9110; expected values are read off its sections 13 and 14."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.conditional import ByteRange, RangeOutside, attachment, content_etag, matches, repr_digest, requested_range

ETAG = '"sha256-ab"'


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, False),
        ("*", True),
        (ETAG, True),
        (f"W/{ETAG}", True),
        (f'"other", {ETAG}', True),
        ('"other"', False),
        ("sha256-ab", False),
        ("", False),
    ],
)
def test_if_none_match_compares_weakly(header: str | None, *, expected: bool) -> None:
    """A list, a weak tag and the star match; an unquoted tag does not."""
    assert matches(header, ETAG) is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-9", ByteRange(first=0, last=9)),
        ("bytes=90-", ByteRange(first=90, last=99)),
        ("bytes=90-1000", ByteRange(first=90, last=99)),
        ("bytes=-10", ByteRange(first=90, last=99)),
        ("bytes=-1000", ByteRange(first=0, last=99)),
        ("bytes=0-1,5-6", None),
        ("bytes=9-1", None),
        ("bytes=-", None),
        ("lines=0-1", None),
        ("nonsense", None),
        (None, None),
    ],
)
def test_a_single_range_is_understood_and_anything_else_ignored(header: str | None, expected: ByteRange | None) -> None:
    """Of 100 bytes, each header asks for what RFC 9110, section 14.1.2, says."""
    assert requested_range(header, None, etag=ETAG, size_bytes=100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0", f"bytes={'9' * 5000}-"])
def test_a_range_behind_the_end_is_outside(header: str) -> None:
    """A range without a byte of the content is refused, digits without end included."""
    with pytest.raises(RangeOutside):
        requested_range(header, None, etag=ETAG, size_bytes=100)


@pytest.mark.parametrize(
    ("if_range", "kept"), [(ETAG, True), (f"W/{ETAG}", False), ('"x"', False), ("Fri, 20 Nov 2026 09:00:00 GMT", False)]
)
def test_if_range_keeps_the_range_only_for_the_same_content(if_range: str, *, kept: bool) -> None:
    """Strong comparison: a weak tag, other content or a date sends the whole content."""
    found = requested_range("bytes=0-9", if_range, etag=ETAG, size_bytes=100)

    assert (found is not None) is kept


@given(st.text(max_size=40))
def test_no_header_breaks_the_reading_of_ranges(text: str) -> None:
    """Whatever is sent, the answer is a range inside the content, the whole, or outside."""
    try:
        found = requested_range(f"bytes={text}", None, etag=ETAG, size_bytes=10)
    except RangeOutside:
        return
    assert found is None or 0 <= found.first <= found.last <= 9


def test_digest_headers_are_those_of_the_content() -> None:
    """The ETag carries the hexadecimal form; Repr-Digest the base64 one, as RFC 9530 shows it for this very JSON."""
    digest = hashlib.sha256(b'{"hello": "world"}\n').hexdigest()

    assert repr_digest(digest) == "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
    assert content_etag(digest) == f'"sha256-{digest}"'


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("net.onnx", "attachment; filename=\"net.onnx\"; filename*=UTF-8''net.onnx"),
        ("../../etc/passwd", "attachment; filename=\"_.._etc_passwd\"; filename*=UTF-8''_.._etc_passwd"),
        ('a"\r\nX: y', "attachment; filename=\"a___X_ y\"; filename*=UTF-8''a___X_%20y"),
        ("", "attachment; filename=\"download\"; filename*=UTF-8''download"),
    ],
)
def test_a_file_name_cannot_leave_its_header_or_folder(name: str, expected: str) -> None:
    """Separators, quotes, line ends and leading dots are gone."""
    assert attachment(name) == expected


@given(st.text(max_size=300))
def test_every_file_name_makes_an_ascii_header(name: str) -> None:
    """Any name gives one printable ASCII line."""
    assert attachment(name).isascii()
    assert attachment(name).isprintable()
