"""Run a command that the kernel kills when its starter ends: `python lifeline.py STARTER_PID COMMAND...`.

The death signal survives exec, so it also holds for programs that are not ours, such as the Valkey server. This file
is run by its path and imports only the standard library, because it runs once more for every part of the service.
"""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Tie this process to its starter and become the command."""
    starter, command = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != starter:  # it ended before the call took effect
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606  # an argument list of our own, no shell


if __name__ == "__main__":
    main()
