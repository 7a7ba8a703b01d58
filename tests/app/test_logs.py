"""Log lines: JSON, with context, without secrets."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from app.logs import configure_logging, log_context


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged, with the logging of the test run put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    before = structlog.get_config()
    stream = io.StringIO()
    configure_logging(level="info", stream=stream)
    yield stream
    root.handlers[:], root.level = handlers, level
    structlog.configure(**before)


def parsed(lines: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


def test_structured_and_plain_lines_look_alike(lines: io.StringIO) -> None:
    """Our events and those of libraries are JSON with level, logger and time; debug is left out."""
    structlog.get_logger("app.x").info("job.submitted", job_id="job_1")
    logging.getLogger("library").warning("something %s", "odd")
    logging.getLogger("library").debug("detail")
    ours, theirs = parsed(lines)

    assert (ours["event"], ours["job_id"], ours["level"], ours["logger"]) == ("job.submitted", "job_1", "info", "app.x")
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("something odd", "warning", "library")
    assert str(ours["timestamp"]).endswith("Z")


def test_context_is_bound_and_cleared(lines: io.StringIO) -> None:
    """Inside the block every line carries the fields, afterwards none does."""
    with log_context(job_id="job_1", attempt=2):
        logging.getLogger("library").warning("inside")
    logging.getLogger("library").warning("outside")
    inside, outside = parsed(lines)

    assert (inside["job_id"], inside["attempt"]) == ("job_1", 2)
    assert "job_id" not in outside


def test_secrets_are_left_out(lines: io.StringIO) -> None:
    """Values under telling names, credentials in URLs and query strings."""
    structlog.get_logger("app.x").info(
        "x.y",
        token="t",
        Authorization="Bearer z",
        url="redis://user:pass@host:1/0?key=abc",
        note="see https://host/path?token=abc for more",
        count=3,
    )
    (line,) = parsed(lines)

    assert (line["token"], line["Authorization"], line["count"]) == ("[redacted]", "[redacted]", 3)
    assert line["url"] == "redis://[redacted]@host:1/0?[redacted]"
    assert line["note"] == "see https://host/path?[redacted] for more"


def test_errors_are_logged_with_their_trace(lines: io.StringIO) -> None:
    """An exception is one line."""
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        structlog.get_logger("app.x").exception("x.failed")
    (line,) = parsed(lines)

    assert "ZeroDivisionError: division by zero" in str(line["exception"])
