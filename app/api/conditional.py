"""The conditions of a request (RFC 9110): If-None-Match, Range, If-Range; and the headers that name a digest."""

import base64
import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import quote

_RANGE = re.compile(r"bytes=\s*(\d*)-(\d*)\s*", re.ASCII)
_ENTITY_TAG = re.compile(r'(?:W/)?("[^"]*")')


class RangeOutside(Exception):
    """The range asked for has no byte of the content in it (416)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteRange:
    """Some bytes of a content, first and last included, as HTTP counts them."""

    first: int
    last: int

    @property
    def num_bytes(self) -> int:
        """How many bytes it holds."""
        return self.last - self.first + 1


def matches(if_none_match: str | None, etag: str) -> bool:
    """Whether If-None-Match names this entity tag (by weak comparison) or any."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag in _ENTITY_TAG.findall(if_none_match)


def requested_range(header: str | None, if_range: str | None, *, etag: str, size_bytes: int) -> ByteRange | None:
    """The one range that is to be sent, or None for the whole content.

    Several ranges, units other than bytes, and a header that makes no sense are ignored, as RFC 9110 (14.2) allows; so
    is any range whose If-Range names other content (strong comparison; dates never match, since content has none).

    Raises:
        RangeOutside: the range starts behind the end of the content.
    """
    if header is None or (if_range is not None and if_range.strip() != etag):
        return None
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first_text, last_text = (text[:20] for text in match.groups())
    if not first_text:
        if int(last_text) == 0 or size_bytes == 0:
            raise RangeOutside
        return ByteRange(first=max(0, size_bytes - int(last_text)), last=size_bytes - 1)
    first = int(first_text)
    last = min(int(last_text), size_bytes - 1) if last_text else size_bytes - 1
    if last_text and int(last_text) < first:
        return None
    if first >= size_bytes:
        raise RangeOutside
    return ByteRange(first=first, last=last)


def content_etag(sha256: str) -> str:
    """The strong entity tag of a content: its digest."""
    return f'"sha256-{sha256}"'


def repr_digest(sha256: str) -> str:
    """The Repr-Digest field (RFC 9530): the digest of the whole content, also where a range of it is sent."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode('ascii')}:"


def attachment(filename: str) -> str:
    """A Content-Disposition field that saves under this name and can do nothing else (RFC 6266).

    Path separators, control characters and leading dots are taken out; old clients get an ASCII form of the name.
    """
    clean = "".join("_" if char in '/\\:*?"<>|' or unicodedata.category(char)[0] == "C" else char for char in filename)
    clean = clean.strip().lstrip(".")[:150] or "download"
    plain = re.sub(r"[^A-Za-z0-9._ ()+,=@-]", "_", unicodedata.normalize("NFKD", clean))
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(clean, safe='')}"
