"""The page at `/`: send a network, watch its job, fetch what came of it. It speaks to /v1 like any client."""

import base64
import hashlib
import re
from importlib.resources import files
from typing import Final

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

from app.api.openapi import bare, problems

router = APIRouter(tags=["index"])

_PAGE: Final = files("app").joinpath("web/index.html").read_text("utf-8")


def content_policy(page: str) -> str:
    """Give the Content-Security-Policy of a page: its own script and style, by digest, and requests to its own host."""
    script, style = (_digests(page, tag) for tag in ("script", "style"))
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; form-action 'self';"
        " base-uri 'none'; frame-ancestors 'none'"
    )


def _digests(page: str, tag: str) -> str:
    bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in bodies]
    return " ".join(f"'sha256-{digest}'" for digest in digests)


_HEADERS: Final = {
    "Content-Security-Policy": content_policy(_PAGE),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@router.get(
    "/",
    operation_id="index",
    response_model=None,
    response_class=Response,
    responses={200: bare("An HTML page.", content={"text/html": {"schema": {"type": "string"}}}), **problems()},
)
async def index() -> HTMLResponse:
    """Give a page that sends networks, shows jobs, and links the documentation."""
    return HTMLResponse(_PAGE, headers=_HEADERS)
