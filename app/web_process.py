"""`python -m app.web_process FD`: the web process on a socket that is listening already.

The socket belongs to whoever starts this process and outlives it, so requests that arrive while a killed web process
is started again wait in the socket's queue instead of being refused.
"""

import socket
import sys

import uvicorn


def main() -> None:
    """Serve until told to stop."""
    listening = socket.socket(fileno=int(sys.argv[1]))
    config = uvicorn.Config(
        "app.main:from_environment",
        factory=True,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
