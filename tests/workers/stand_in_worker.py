"""A polling worker whose attempts run the stand-in engine: everything else is the real process."""

import sys

from tests.workers.folders import COMMAND
from workers import poll, supervisor

supervisor.ATTEMPT = COMMAND

if __name__ == "__main__":
    sys.exit(poll.main())
