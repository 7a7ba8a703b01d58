"""How a worker process is told to stop: SIGTERM or Ctrl-C set an event, and the work at hand ends in its own time."""

import signal
import threading
from types import FrameType


def stop_event() -> threading.Event:
    """Give the event that SIGTERM and SIGINT of this process set from now on."""
    stop = threading.Event()

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask_to_stop)
    return stop
