"""JSON log lines with request, job and attempt bound by context, for web and workers alike."""

import logging
import re
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Final, TextIO

import structlog
from structlog.contextvars import bound_contextvars, merge_contextvars

_SECRET_KEYS: Final = frozenset({"authorization", "key", "api_key", "token", "password", "secret", "cookie"})
# user:password@ and query strings may hold secrets; hosts and paths stay readable.
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/\s@]+@")
_QUERY: Final = re.compile(r"(?<=[^\s?])\?[^\s\"']*=[^\s\"']*")
_Event = MutableMapping[str, Any]


def configure_logging(*, level: str = "INFO", json: bool = True, stream: TextIO | None = None) -> None:
    """Send structlog and the stdlib's loggers to one stream in one form; may be called again."""
    shared: list[structlog.typing.Processor] = [
        merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(default=str) if json else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    drop = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[drop, renderer]))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def redact(logger: Any, method: str, event: _Event) -> _Event:
    """Replace what may be a secret: values under telling names, credentials and queries inside URLs."""
    del logger, method
    for name, value in event.items():
        if name.lower() in _SECRET_KEYS:
            event[name] = "[redacted]"
        elif isinstance(value, str) and "://" in value:
            event[name] = _QUERY.sub("?[redacted]", _CREDENTIALS.sub("[redacted]@", value))
    return event


@contextmanager
def log_context(**fields: object) -> Iterator[None]:
    """Bind fields such as job_id and attempt to every line that is logged inside the block."""
    with bound_contextvars(**fields):
        yield
