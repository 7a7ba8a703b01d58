"""A job's result as one HTML file."""

import json
from collections.abc import Mapping

from jinja2 import Environment

from workers.pruning.types import Json

_PAGE = Environment(autoescape=True).from_string("<!doctype html><title>Espalier</title><pre>{{ text }}</pre>")


def render(result: Mapping[str, Json]) -> str:
    """Give the page of a result."""
    return _PAGE.render(text=json.dumps(result, indent=2, sort_keys=True))
