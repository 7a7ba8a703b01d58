"""The Celery worker's application, its attempts running the stand-in engine."""

from tests.workers.folders import COMMAND
from workers import supervisor

supervisor.ATTEMPT = COMMAND

from workers.celery_app import app  # noqa: E402

__all__ = ["app"]
