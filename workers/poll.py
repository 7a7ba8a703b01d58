"""`python -m workers.poll`: a worker without a broker; it looks into the database once in a while."""

import sys

from app.logs import configure_logging
from app.settings import Settings
from workers.consumer import Consumer
from workers.stopping import stop_event
from workers.supervisor import open_supervisor, serving


def main() -> int:
    """Work until told to stop; then the job at hand goes back to its queue, with its checkpoints."""
    settings = Settings()
    configure_logging(level=settings.log_level, json=settings.log_json)
    stop = stop_event()
    with open_supervisor(settings, bell="silent", stopping=stop.is_set) as supervisor, serving(supervisor):
        Consumer(supervisor=supervisor, stopping=stop.is_set).look_forever(settings.poll_seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
