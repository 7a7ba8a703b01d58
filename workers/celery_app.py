"""`celery -A workers.celery_app worker`: the Celery application with its one task, the doorbell.

The task says "look into the database" and nothing else. It is acknowledged when it arrives and runs as long as jobs
wait, so a busy worker takes no further bells and the next one goes to an idle worker. Beside it a thread looks every
few seconds, in case a bell was lost or the broker is away.
"""

import mmap
import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import Any, Final

from celery import Celery, signals
from kombu.entity import Queue

from app.broker import CELERY_SETTINGS, LOOK, QUEUE_PREFIX
from app.logs import configure_logging
from app.settings import Settings
from workers.consumer import Consumer
from workers.sandbox import die_with_parent
from workers.supervisor import open_supervisor, serving

_LOOK_ANYWAY: Final = timedelta(seconds=5)
_NO_BROKER: Final = "ESPALIER_REDIS_URL is not set. Without a broker run `python -m workers.poll` instead.\n"

settings = Settings()
# One byte that the pool's process shares with the main one: a warm shutdown is only told to the latter.
_stop = mmap.mmap(-1, 1)
_consumers: list[Consumer] = []  # of this process: the pool's one


def _stopping() -> bool:
    return _stop[0] != 0


def _make_app(settings: Settings) -> Celery:
    broker = settings.redis_url.get_secret_value() if settings.redis_url else "memory://"
    made = Celery("espalier", broker=broker)
    made.conf.update(CELERY_SETTINGS)
    made.conf.update(
        task_queues=[Queue(QUEUE_PREFIX + name) for name in settings.queue_names],  # type: ignore[no-untyped-call]
        task_default_queue=QUEUE_PREFIX + settings.queue_names[0],
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_concurrency=1,
        worker_pool="prefork",
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_max_retries=None,
    )
    return made


app = _make_app(settings)


@app.task(name=LOOK)  # type: ignore[untyped-decorator]  # Celery has no types
def look(queue: str) -> None:
    """Run jobs until none waits."""
    del queue  # every queue of this worker is looked into
    for consumer in _consumers:
        consumer.drain()


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def _refuse_without_broker(**_: Any) -> None:
    if settings.redis_url is None:
        sys.stderr.write(_NO_BROKER)
        sys.exit(2)


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _log_as_the_service_does(**_: Any) -> None:
    configure_logging(level=settings.log_level, json=settings.log_json)


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _give_back_what_runs(**_: Any) -> None:
    """Tell the pool's process: its job goes back to the queue, and the worker ends within seconds, not hours."""
    _stop[0] = 1


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _begin(**_: Any) -> None:
    """Prepare the pool's process: tied to the main one, looking by itself beside the bell."""
    die_with_parent(os.getppid())
    ready = threading.Event()
    thread = threading.Thread(target=_look_by_itself, args=(ready.set,), name="look", daemon=True)
    thread.start()
    ready.wait(30)
    signal.signal(signal.SIGTERM, _end)


def _look_by_itself(ready: Callable[[], None]) -> None:
    with open_supervisor(settings, bell="celery", stopping=_stopping) as supervisor, serving(supervisor):
        consumer = Consumer(supervisor=supervisor, stopping=_stopping)
        _consumers.append(consumer)
        ready()
        consumer.look_forever(_LOOK_ANYWAY)


def _end(number: int, frame: FrameType | None) -> None:
    """Handle a request to this very process: an idle one ends at once, a busy one gives its job back first."""
    del number, frame
    _stop[0] = 1
    if not any(consumer.busy for consumer in _consumers):
        sys.exit(0)
