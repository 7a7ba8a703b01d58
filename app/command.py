"""What every command that speaks to a service shares: where it is, and how its refusals are shown."""

import sys
from collections.abc import Callable
from typing import Final, TypeVar

import click
from rich.console import Console

from app.client import Client, RequestFailed

Answer = TypeVar("Answer")
DEFAULT_URL: Final = "http://127.0.0.1:8000"

url_option = click.option("--url", envvar="ESPALIER_URL", default=DEFAULT_URL, show_default=True, help="The service.")
key_option = click.option("--key", envvar="ESPALIER_KEY", default=None, help="API key, where the service asks for one.")


def connected(url: str, key: str | None) -> Client:
    """Return a client that is closed when the command ends."""
    return click.get_current_context().with_resource(Client(url, key))


def reported(console: Console, call: Callable[[], Answer]) -> Answer:
    """Return the call's answer, or print its problem and leave with status 1."""
    try:
        return call()
    except RequestFailed as error:
        console.print(f"error: {error}", style="red", highlight=False, markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("cancelled")
        sys.exit(130)
