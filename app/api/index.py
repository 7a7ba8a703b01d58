"""The page at `/`: where things are."""

from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

from app.api.openapi import bare, problems

router = APIRouter(tags=["index"])

_PAGE = files("app").joinpath("web/index.html").read_text("utf-8")


@router.get(
    "/",
    operation_id="index",
    response_model=None,
    response_class=Response,
    responses={200: bare("An HTML page.", content={"text/html": {"schema": {"type": "string"}}}), **problems()},
)
async def index() -> HTMLResponse:
    """Say in a page what this is and where its documentation is."""
    return HTMLResponse(_PAGE)
