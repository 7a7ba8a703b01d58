"""Sending stored bytes: conditions and ranges honoured, 1 MiB at a time, checked against their digest beforehand."""

from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app.api.conditional import ByteRange, RangeOutside, attachment, content_etag, matches, repr_digest, requested_range
from app.api.error_handlers import service_problem
from app.errors import ServiceError
from app.ids import Digest
from app.storage.blobs import BlobStore

MEDIA_TYPES = {".onnx": "application/onnx", ".json": "application/json"}


class RangeNotSatisfiable(ServiceError):
    """The range asked for has no byte of the content in it."""

    code = "range-not-satisfiable"
    title = "The range lies outside the content"
    status = 416


async def _stream(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks, each read in a thread."""
    try:
        while (chunk := await run_in_threadpool(next, chunks, None)) is not None:
            yield chunk
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()


def _media_type(name: str) -> str:
    return next((kind for ending, kind in MEDIA_TYPES.items() if name.endswith(ending)), "application/octet-stream")


async def send_content(request: Request, store: BlobStore, digest: Digest, *, name: str) -> Response:
    """Answer GET or HEAD with the bytes of this digest, offered under this name.

    Raises:
        BlobMissing: the store does not have them.
        BlobCorrupt: the stored bytes are not those of the digest; they are never sent.
    """
    etag = content_etag(digest)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff"}
    if matches(request.headers.get("If-None-Match"), etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    blob = await run_in_threadpool(store.verify, digest)
    headers |= {
        "Accept-Ranges": "bytes",
        "Repr-Digest": repr_digest(digest),
        "Content-Disposition": attachment(name),
        "Content-Type": _media_type(name),
    }
    try:
        part = _requested(request, etag, blob.size_bytes)
    except RangeOutside:
        error = RangeNotSatisfiable(
            f"The content has {blob.size_bytes} bytes; asked for was {request.headers['Range']}."
        )
        problem = service_problem(request.scope, error)
        problem.headers["Content-Range"] = f"bytes */{blob.size_bytes}"
        return problem
    first, stop = (part.first, part.last + 1) if part else (0, blob.size_bytes)
    headers["Content-Length"] = str(stop - first)
    if part:
        headers["Content-Range"] = f"bytes {part.first}-{part.last}/{blob.size_bytes}"
    status = HTTPStatus.PARTIAL_CONTENT if part else HTTPStatus.OK
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    chunks = await run_in_threadpool(store.open, digest, first, stop)
    return StreamingResponse(_stream(chunks), status_code=status, headers=headers)


def _requested(request: Request, etag: str, size_bytes: int) -> ByteRange | None:
    """The range of a GET; HEAD has none (RFC 9110, 14.2)."""
    header = request.headers.get("Range") if request.method == "GET" else None
    return requested_range(header, request.headers.get("If-Range"), etag=etag, size_bytes=size_bytes)
