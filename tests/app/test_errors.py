"""The error tree: every class has its code, its status, and its line in the drawing."""

import re
from datetime import timedelta

from app import errors
from app.errors import DatabaseUnavailable, FieldError, ServiceError, json_pointer


def tree(kind: type[ServiceError]) -> list[type[ServiceError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in tree(child))]


def test_codes_are_unique_slugs() -> None:
    """A program can tell every error by its code."""
    codes = [kind.code for kind in tree(ServiceError)]

    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)


def test_the_drawing_shows_every_class_with_its_status() -> None:
    """The module's docstring is the tree as it is."""
    drawn = dict(re.findall(r"^ +(\w+) +(\d{3})  ", errors.__doc__ or "", re.MULTILINE))

    # Classes that live beside the one module that raises them are not part of the drawing.
    shared = [kind for kind in tree(ServiceError)[1:] if kind.__module__ == errors.__name__]
    assert drawn == {kind.__name__: str(kind.status) for kind in shared}


def test_a_problem_has_the_members_of_rfc_9457() -> None:
    """Type, title, status and detail, besides the fields and whether to retry; details of the case beside them."""
    error = DatabaseUnavailable(
        "It is away.",
        advice="Come back.",
        errors=[FieldError(pointer="/a", message="b")],
        extra={"smallest": 3, "status": "never replaced"},
        retry_after=timedelta(seconds=2),
    )

    assert error.problem() == {
        "type": "database-unavailable",
        "title": "The database does not answer",
        "status": 503,
        "detail": "It is away. Come back.",
        "errors": [{"pointer": "/a", "message": "b"}],
        "retryable": True,
        "smallest": 3,
    }


def test_pointers_are_escaped() -> None:
    """RFC 6901: ~ and / inside a name."""
    assert json_pointer(["a/b", "c~d", 0]) == "/a~1b/c~0d/0"
    assert json_pointer([]) == ""
