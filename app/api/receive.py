"""Bodies on their way in: forms walked part by part, files poured into the store, texts and JSON held to their limits.

What a file may be, and how large, is decided by app/services/uploads.py, which also hashes and stores; here its first
bytes are judged, and what is refused is refused as early as it can be.
"""

import base64
import binascii
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from app.api.deps import Parts
from app.api.multipart import FormReader, MalformedForm
from app.api.pour import pour
from app.api.sniff import HEAD_BYTES, foreign_dataset, foreign_network
from app.errors import FieldError, ServiceError, UnsupportedFormat, UploadTooLarge, ValidationFailed
from app.services.uploads import Announced, UploadKind
from app.storage.blobs import Blob

MULTIPART: Final = "multipart/form-data"
_FOREIGN: Final = {"model": foreign_network, "external_data": lambda _: None, "dataset": foreign_dataset}
EXTERNAL_DATA: Final = "external_data"
_DIGEST_FIELD: Final = re.compile(r"sha-256=:([A-Za-z0-9+/=]{44}):")
# Boundaries, headers and small fields around the files of a form.
_FORM_OVERHEAD_BYTES: Final = 64 * 1024
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class MalformedBody(ServiceError):
    """The body is not what its Content-Type says."""

    code = "malformed-body"
    title = "The body cannot be read"
    status = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file whose bytes are in the store; no row names them yet."""

    blob: Blob
    announced: Announced
    external_data: Blob | None = None  # the companion that came with a network


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What a form held: its files and its text fields, by the names of their parts."""

    files: Mapping[str, StoredFile]
    fields: Mapping[str, str]


def content_type(request: Request) -> str:
    """The media type of the body, without parameters, in lower case."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _content_length(request: Request) -> int | None:
    text = request.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _judge(kind: UploadKind, head: bytes) -> None:
    found = _FOREIGN[kind](head[:HEAD_BYTES])
    if found is not None:
        raise UnsupportedFormat(f"The {kind} is {found.what}.", advice=f"What to do: {found.advice}.")


def _safe_name(name: str, kind: UploadKind) -> str:
    """A file's name as it is stored: without folders, which some clients send, and without control characters."""
    return _CONTROL.sub("_", re.split(r"[/\\]", name)[-1]).strip()[:255] or kind


async def _store(parts: Parts, chunks: AsyncIterator[bytes], announced: Announced, kind: UploadKind) -> StoredFile:
    sink = partial(_store_bytes, parts, announced=announced, kind=kind)
    return StoredFile(blob=await pour(chunks, sink, parts.upload_threads), announced=announced)


def _store_bytes(parts: Parts, chunks: Iterator[bytes], *, announced: Announced, kind: UploadKind) -> Blob:
    return parts.services.uploads.store_bytes(chunks, announced, kind)


async def take_upload(request: Request, parts: Parts, kind: UploadKind, *, name: str | None) -> StoredFile:
    """Take the file of an upload: the body as it is, or the part `file` of a form.

    The form of a network may bring the companion that holds its weights, as the part `external_data`.

    Raises:
        ServiceError: as Uploads.store_bytes() and take_form() say.
    """
    if content_type(request) == MULTIPART:
        kinds: dict[str, UploadKind] = {"file": kind}
        if kind == "model":
            kinds[EXTERNAL_DATA] = "external_data"
        form = await take_form(request, parts, kinds, max_field_bytes=0)
        if "file" not in form.files:
            raise missing_part("file", "with curl: -F file=@net.onnx")
        stored, beside = form.files["file"], form.files.get(EXTERNAL_DATA)
        return StoredFile(
            blob=stored.blob,
            announced=Announced(name=name or stored.announced.name),
            external_data=None if beside is None else beside.blob,
        )
    announced = Announced(
        name=_safe_name(name or kind, kind),
        length=_content_length(request),
        sha256=_announced_digest(request),
        check_head=partial(_judge, kind),
    )
    await run_in_threadpool(parts.services.uploads.check_announced, announced, kind)
    return await _store(parts, request.stream(), announced, kind)


def _announced_digest(request: Request) -> str | None:
    """The SHA-256 that the client says its body has (RFC 9530), in hexadecimal."""
    match = _DIGEST_FIELD.search(request.headers.get("Repr-Digest") or request.headers.get("Content-Digest") or "")
    if match is None:
        return None
    try:
        return base64.b64decode(match[1], validate=True).hex()
    except binascii.Error:
        return None


def missing_part(name: str, advice: str) -> ValidationFailed:
    """The refusal of a form that lacks a part."""
    error = FieldError(pointer=f"/{name}", message="this part is missing")
    return ValidationFailed(f"The form has no part `{name}`; {advice}.", errors=[error])


async def take_form(
    request: Request,
    parts: Parts,
    kinds: Mapping[str, UploadKind],
    *,
    texts: tuple[str, ...] = (),
    max_field_bytes: int,
) -> Form:
    """Read a form whose file parts are `kinds` and whose text parts are `texts`; a file part without a file is a text.

    Raises:
        MalformedBody: it is no form, or was cut off.
        ValidationFailed: a part is unknown, or comes twice; both are named.
        ServiceError: as Uploads.store_bytes() says.
    """
    await _refuse_early(request, parts, kinds)
    files: dict[str, StoredFile] = {}
    fields: dict[str, str] = {}
    try:
        form = FormReader(request.stream(), request.headers["Content-Type"])
        while (head := await form.next_part()) is not None:
            _check_part(head.name, known=(*kinds, *texts), seen=(*files, *fields))
            if head.name in kinds and head.filename is not None:
                kind = kinds[head.name]
                announced = Announced(name=_safe_name(head.filename, kind), check_head=partial(_judge, kind))
                files[head.name] = await _store(parts, form.chunks(), announced, kind)
            else:
                fields[head.name] = await _text(form, head.name, max_field_bytes)
    except MalformedForm as error:
        raise MalformedBody(f"The body is not a whole multipart/form-data document: {error}.") from error
    return Form(files=files, fields=fields)


async def _refuse_early(request: Request, parts: Parts, kinds: Mapping[str, UploadKind]) -> None:
    """Refuse by the form's announced length what its files together may not have."""
    length = _content_length(request)
    if length is None:
        return
    settings = parts.services.settings
    limits = settings.max_upload_bytes
    allowed = sum(limits[kind] for kind in kinds.values()) + settings.max_spec_bytes + _FORM_OVERHEAD_BYTES
    if length > allowed:
        raise UploadTooLarge(f"The form has {length} bytes; allowed are {allowed}, of its files together.")
    kind = next(iter(kinds.values()))
    await run_in_threadpool(parts.services.uploads.check_announced, Announced(name=kind), kind)


def _check_part(name: str, *, known: tuple[str, ...], seen: tuple[str, ...]) -> None:
    shown = name[:80]
    if name not in known:
        error = FieldError(pointer=f"/{shown}", message="no such part")
        raise ValidationFailed(f"The form has a part {shown!r}; known are {', '.join(known)}.", errors=[error])
    if name in seen:
        error = FieldError(pointer=f"/{shown}", message="given twice")
        raise ValidationFailed(f"The form has the part {shown!r} twice; allowed is once.", errors=[error])


async def _text(form: FormReader, name: str, max_bytes: int) -> str:
    """The text of the current part."""
    held = bytearray()
    async for chunk in form.chunks():
        held += chunk
        if len(held) > max_bytes:
            hint = "a file is sent with its name" if max_bytes == 0 else "a file is sent with its name, not as text"
            raise UploadTooLarge(f"The text part {name!r} has more than {max_bytes} bytes; {hint}.")
    try:
        return held.decode()
    except UnicodeDecodeError as error:
        raise MalformedBody(f"The text part {name!r} is not UTF-8 at byte {error.start}.") from error


async def take_json(request: Request, *, max_bytes: int) -> bytes:
    """The body of a JSON request, counted while it is read.

    Raises:
        UploadTooLarge: it is longer than allowed.
        UnsupportedFormat: it is announced as something else.
    """
    found = content_type(request)
    if found not in {"", "application/json"} and not found.endswith("+json"):
        raise UnsupportedFormat(f"The body is announced as {found[:80]!r}; allowed is application/json.")
    return await take_bytes(request, max_bytes=max_bytes, what="JSON body", setting="ESPALIER_MAX_SPEC_BYTES")


async def take_bytes(request: Request, *, max_bytes: int, what: str, setting: str) -> bytes:
    """The body of a request, counted while it is read.

    Raises:
        UploadTooLarge: it is longer than allowed.
    """
    held = bytearray()
    if (_content_length(request) or 0) <= max_bytes:
        async for chunk in request.stream():
            held += chunk
            if len(held) > max_bytes:
                break
        else:
            return bytes(held)
    raise UploadTooLarge(f"The {what} has more than {max_bytes} bytes.", advice=f"{setting} limits it.")
