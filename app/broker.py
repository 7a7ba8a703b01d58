"""The doorbell: tells workers to look into the database. It carries no work, so whatever it loses is found by looking.

The web process sends by name and never imports `workers`. A bell that cannot be rung says so by returning False; the
outbox keeps the message and the sweeper rings again.
"""

import logging
import time
from typing import Any, Final, Protocol

import structlog
from celery import Celery
from kombu.exceptions import KombuError, OperationalError
from redis.exceptions import RedisError

from app.settings import Settings

LOOK: Final = "espalier.look"  # the one task: look at this queue
QUEUE_PREFIX: Final = "espalier."
_QUIET_SECONDS: Final = 5.0
_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

# Also the worker's: JSON only, acknowledged early since the database holds the lease, nothing kept of the answer.
CELERY_SETTINGS: Final[dict[str, Any]] = {
    "accept_content": ["json"],
    "task_serializer": "json",
    "result_serializer": "json",
    "result_backend": None,
    "task_ignore_result": True,
    "task_acks_late": False,
    "task_reject_on_worker_lost": False,
    "task_create_missing_queues": True,
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    "worker_send_task_events": False,
    "task_send_sent_event": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_timeout": 2,
    "broker_transport_options": {
        "visibility_timeout": 3600,
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        "retry_on_timeout": True,
    },
    "task_publish_retry": True,
    "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.2},
}


class Bell(Protocol):
    """What services need of a broker."""

    name: str

    def ring(self, queue: str) -> bool:
        """Tell workers of `queue` to look; False where it could not be told. Never raises, never blocks for long."""

    def answers(self) -> bool:
        """Whether the broker answers now; readiness reports it as degraded, never as unready."""


class SilentBell:
    """No broker: workers look by themselves once in a while."""

    name = "silent"

    def ring(self, queue: str) -> bool:
        """Nobody needs to be told."""
        del queue
        return True

    def answers(self) -> bool:
        """There is nothing that could fail."""
        return True


class CeleryBell:
    """A Celery client on Redis or Valkey, by TCP or by Unix socket."""

    name = "celery"

    def __init__(self, url: str) -> None:
        self._app = Celery("espalier", broker=url, set_as_current=False)
        self._app.conf.update(CELERY_SETTINGS)
        self._quiet_until = 0.0  # monotonic seconds

    def ring(self, queue: str) -> bool:
        """Send the doorbell task to the queue; a bell that was just found broken is left alone for a few seconds."""
        if time.monotonic() < self._quiet_until:
            return False
        try:
            self._app.send_task(LOOK, args=[queue], queue=QUEUE_PREFIX + queue, expires=60)
        except (OperationalError, KombuError, RedisError, OSError) as error:
            self._quiet_until = time.monotonic() + _QUIET_SECONDS
            _log.warning("bell.unreachable", queue=queue, error=type(error).__name__)
            return False
        return True

    def answers(self) -> bool:
        """Open a connection, without retries."""
        try:
            with self._app.connection_for_write(connect_timeout=2) as connection:
                connection.ensure_connection(max_retries=1, timeout=2)
        except (OperationalError, KombuError, RedisError, OSError):
            return False
        return True

    def close(self) -> None:
        """Close pooled connections."""
        self._app.close()


def open_bell(settings: Settings) -> Bell:
    """Give the bell of the settings: Celery where a broker is configured, else none."""
    logging.getLogger("kombu").setLevel(logging.ERROR)
    if settings.redis_url is None:
        return SilentBell()
    return CeleryBell(settings.redis_url.get_secret_value())
