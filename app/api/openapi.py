"""The OpenAPI document: what each operation takes and answers, problems and headers included: the truth.

Operations describe themselves with `answer()`, `problems()` and the request bodies below; `document()` adds the schemas
that these name and the headers that every answer has.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.api import device_schemas, schemas
from app.api.error_handlers import MEDIA_TYPE
from app.domain import batch, device
from app.domain.methods import JobSpec

Json = dict[str, Any]
Responses = dict[int | str, Json]

_REF: Final = "#/components/schemas/{model}"

# Request and answer models are generated each in its own mode: what may be left out of one is always in the other.
_ANSWERS: Final[tuple[type[BaseModel], ...]] = (
    schemas.Problem,
    schemas.Model,
    schemas.Dataset,
    schemas.Job,
    schemas.Event,
    schemas.Artifact,
    device_schemas.Measurement,
    schemas.Estimate,
    schemas.Readiness,
    schemas.Liveness,
    schemas.Page[schemas.Model],
    schemas.Page[schemas.Dataset],
    schemas.Page[schemas.Job],
    schemas.Page[schemas.Event],
    schemas.Page[schemas.Artifact],
    schemas.Page[device_schemas.Measurement],
    device_schemas.Device,
    device_schemas.RegisteredDevice,
    device_schemas.MeasurementRequest,
    device_schemas.Lease,
    device_schemas.LeaseTime,
    schemas.Page[device_schemas.Device],
    schemas.Page[device_schemas.MeasurementRequest],
    device_schemas.Import,
)
_REQUESTS: Final[tuple[type[BaseModel], ...]] = (
    JobSpec,
    device.DeviceSpec,
    device.MeasurementSpec,
    device.Poll,
    device.LatencyReport,
    batch.BatchReport,
    device.FailureReport,
)
_SECURITY: Final[Json] = {
    "device": {"type": "http", "scheme": "bearer", "description": "The token that the device's registration gave."}
}

_HEADERS: Final[Mapping[str, Json]] = {
    "X-Request-ID": {"description": "The id of the request, as sent or as given.", "schema": {"type": "string"}},
    "ETag": {"description": "Names this version; send it back as If-None-Match.", "schema": {"type": "string"}},
    "Location": {"description": "Where the resource is.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait before asking again.", "schema": {"type": "string"}},
    "Repr-Digest": {"description": "SHA-256 of the whole content (RFC 9530).", "schema": {"type": "string"}},
    "Content-Range": {"description": "Which bytes these are.", "schema": {"type": "string"}},
    "Content-Disposition": {"description": "The name to save under.", "schema": {"type": "string"}},
    "Accept-Ranges": {"description": "`bytes`.", "schema": {"type": "string"}},
    "X-Content-Type-Options": {"description": "`nosniff`.", "schema": {"type": "string"}},
}


def schema_name(model: type[BaseModel]) -> str:
    """The name of a model's schema: a page of jobs is `JobPage`."""
    arguments = model.__pydantic_generic_metadata__["args"]
    return f"{arguments[0].__name__}Page" if arguments else model.__name__


def reference(model: type[BaseModel]) -> Json:
    """A reference to a model's schema."""
    return {"$ref": _REF.format(model=schema_name(model))}


def answer(model: type[BaseModel], description: str, *, headers: Sequence[str] = ()) -> Json:
    """A JSON answer with this model's schema."""
    return {
        "description": description,
        "content": {"application/json": {"schema": reference(model)}},
        "headers": {name: _HEADERS[name] for name in headers},
    }


def bare(description: str, *, headers: Sequence[str] = (), content: Json | None = None) -> Json:
    """An answer without a JSON body."""
    described: Json = {"description": description, "headers": {name: _HEADERS[name] for name in headers}}
    return {**described, "content": content} if content else described


def problems(*statuses: int) -> Responses:
    """The problems that an operation may answer with; every one may answer 403, 500 and 503."""
    content = {MEDIA_TYPE: {"schema": reference(schemas.Problem)}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in sorted({*statuses, 403, 422, 500, 503})
    }


_EXTERNAL_DATA: Final[Json] = {
    "type": "string",
    "format": "binary",
    "description": "The one file that holds the weights of the ONNX file, where they lie outside of it.",
}


def upload_body(*media_types: str, external_data: bool = False) -> Json:
    """The request body of an upload: the bytes as they are, or a form with one file and perhaps its companion."""
    file: Json = {"file": {"type": "string", "format": "binary"}}
    form = {
        "type": "object",
        "properties": {**file, "external_data": _EXTERNAL_DATA} if external_data else file,
        "required": ["file"],
        "additionalProperties": False,
    }
    content: Json = {name: {"schema": {"type": "string", "format": "binary", "minLength": 1}} for name in media_types}
    content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}


def job_body() -> Json:
    """The request body of a job: JSON, or a form that brings the files along."""
    form = {
        "type": "object",
        "properties": {
            "model": {"type": "string", "format": "binary", "description": "The ONNX file."},
            "external_data": _EXTERNAL_DATA,
            "target": {"type": "string", "description": "As in the JSON form, short text or JSON."},
            "dataset": {"type": "string", "format": "binary", "description": "A zip or .npz file."},
            "spec": {"type": "string", "description": "The JSON form's other fields, as JSON text."},
        },
        "required": ["model"],
        "additionalProperties": False,
    }
    content = {"application/json": {"schema": reference(JobSpec)}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


def by_device() -> Json:
    """The operation is an agent's: it takes the device's token."""
    return {"security": [{"device": []}]}


def json_body(model: type[BaseModel]) -> Json:
    """A JSON request body with this model's schema."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference(model)}}}}


def _renamed(found: Any, names: Mapping[str, str]) -> Any:
    """The same schema with its references under the names that we give."""
    if isinstance(found, dict):
        return {
            key: names.get(value, value) if key == "$ref" and isinstance(value, str) else _renamed(value, names)
            for key, value in found.items()
        }
    return [_renamed(item, names) for item in found] if isinstance(found, list) else found


def _components() -> Json:
    """The schemas of all documents, requests and answers."""
    schemata: Json = {}
    for models, mode in ((_ANSWERS, "serialization"), (_REQUESTS, "validation")):
        keyed, top = models_json_schema([(model, mode) for model in models], ref_template=_REF)  # type: ignore[misc]
        generated = top.get("$defs", {})
        names = {}
        for model in models:
            own = str(keyed[model, mode]["$ref"])  # type: ignore[index]
            names[own] = _REF.format(model=schema_name(model))
        for name, schema in generated.items():
            target = names.get(_REF.format(model=name), _REF.format(model=name)).rpartition("/")[2]
            schemata[target] = _renamed(schema, names)
    return schemata


def _named(found: Any, schemata: Json, names: set[str]) -> set[str]:
    """The names of the schemas that this part of the document leads to, added to `names`."""
    if isinstance(found, dict):
        name = str(found.get("$ref", "")).rpartition("/")[2]
        if name and name not in names:
            names.add(name)
            _named(schemata[name], schemata, names)
    for item in found.values() if isinstance(found, dict) else found if isinstance(found, list) else ():
        _named(item, schemata, names)
    return names


def document(app: FastAPI) -> Json:
    """Build the document once, and give it."""
    if app.openapi_schema:
        return app.openapi_schema
    built = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemata = _components()
    used = sorted(_named(built["paths"], schemata, set()))
    built["components"] = {"schemas": {name: schemata[name] for name in used}, "securitySchemes": _SECURITY}
    for operations in built["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                response.setdefault("headers", {})["X-Request-ID"] = _HEADERS["X-Request-ID"]
    app.openapi_schema = built
    return built
