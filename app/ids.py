"""Names of things: a prefix that says what it is, and a time-ordered random part (a lower-case ULID)."""

import re
from typing import Final, Literal, NewType

from ulid import ULID

Prefix = Literal["mdl", "dst", "job", "art", "msr", "dev", "key", "req", "wrk", "mrq", "lse"]
JobId = NewType("JobId", str)
Digest = NewType("Digest", str)  # lower-case hex SHA-256 of the bytes

_ID: Final = re.compile(r"(mdl|dst|job|art|msr|dev|key|req|wrk|mrq|lse)_[0-9a-hjkmnp-tv-z]{26}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def new_id(prefix: Prefix) -> str:
    """Give a new identifier such as `job_01k9…`; later ones sort behind earlier ones, none can be guessed."""
    return f"{prefix}_{str(ULID()).lower()}"


def is_id(text: str, prefix: Prefix) -> bool:
    """Whether `text` has the shape of an identifier of this kind; whether it exists is another question."""
    match = _ID.fullmatch(text)
    return match is not None and match[1] == prefix


def is_digest(text: str) -> bool:
    """Whether `text` is a lower-case hexadecimal SHA-256."""
    return _DIGEST.fullmatch(text) is not None
