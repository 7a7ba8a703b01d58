"""The one-line form of a job: the model, perhaps the data, and the target, in one request."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import Request
from starlette.responses import Response

from app.api.deps import Caller, Parts
from app.api.json_body import read_json
from app.api.once import Answer, once
from app.api.receive import EXTERNAL_DATA, Form, missing_part, take_form
from app.domain.methods import JobSpec, parse_spec
from app.errors import FieldError, ValidationFailed
from app.ids import Prefix, new_id
from app.services.idempotency import Ticket

Submit = Callable[[Parts, Caller, JobSpec, Ticket | None], Answer]
Recover = Callable[[Parts, Caller, str], Answer]

_PREFIXES: dict[str, Prefix] = {"model": "mdl", "dataset": "dst"}
_SPEC_MAY_NOT = ("model", "dataset")


async def submit_form(
    request: Request, parts: Parts, caller: Caller, *, key: str | None, submit: Submit, recover: Recover
) -> Response:
    """Take the form's files in, and submit the job that it asks for.

    The request is judged as a whole before any row is written: with ids in place of files that are still nameless.

    Raises:
        ServiceError: as take_form(), parse_spec() and Jobs.submit() say.
    """
    form = await take_form(
        request,
        parts,
        {"model": "model", EXTERNAL_DATA: "external_data", "dataset": "dataset"},
        texts=("target", "spec"),
        max_field_bytes=parts.services.settings.max_spec_bytes,
    )
    given = _request(form)
    parse_spec({**given, **{name: new_id(_PREFIXES[name]) for name in form.files if name in _PREFIXES}})
    digests = [f"{name}={form.files[name].blob.digest}" for name in sorted(form.files)]
    identity = ("POST", "/v1/jobs", *digests, json.dumps(given, sort_keys=True))
    work = partial(_submit, parts, caller, form, given, submit=submit)
    return await once(parts, caller.tenant, key, identity=identity, work=work, recover=partial(recover, parts, caller))


def _request(form: Form) -> dict[str, Any]:
    """The job's request without its files: the spec, with the target and ids from their own parts."""
    given = read_json(form.fields["spec"], where="The part `spec`") if "spec" in form.fields else {}
    if not isinstance(given, dict):
        field = FieldError(pointer="/spec", message="must be a JSON object")
        raise ValidationFailed("The part `spec` must hold a JSON object.", errors=[field])
    for name in ("target", "model", "dataset"):
        if name in form.fields and name in given:
            field = FieldError(pointer=f"/{name}", message="given in its own part and in spec")
            raise ValidationFailed(f"`{name}` is given in its own part and in `spec`; allowed is one.", errors=[field])
    given |= {name: form.fields[name].strip() for name in _SPEC_MAY_NOT if name in form.fields}
    if "target" in form.fields:
        given["target"] = _target(form.fields["target"])
    for name in form.files:
        if name in given:
            field = FieldError(pointer=f"/{name}", message="given as a file and as an id")
            raise ValidationFailed(f"`{name}` is given as a file and as an id; allowed is one.", errors=[field])
    if "model" not in form.files and (EXTERNAL_DATA in form.files or "model" not in given):
        raise missing_part("model", "with curl: -F model=@net.onnx")
    return given


def _target(text: str) -> object:
    """The target as its part has it: JSON where it begins like JSON, else short text."""
    stripped = text.strip()
    return read_json(stripped, where="The part `target`") if stripped.startswith(("{", "[")) else stripped


def _submit(
    parts: Parts, caller: Caller, form: Form, given: dict[str, Any], ticket: Ticket | None, *, submit: Submit
) -> Answer:
    uploads = parts.services.uploads
    ids = {}
    if model := form.files.get("model"):
        beside = form.files.get(EXTERNAL_DATA)
        external_data = None if beside is None else beside.blob
        received = uploads.register_model(caller.tenant, model.blob, model.announced, external_data=external_data)
        ids["model"] = received.row.id
    if dataset := form.files.get("dataset"):
        ids["dataset"] = uploads.register_dataset(caller.tenant, dataset.blob, dataset.announced).row.id
    return submit(parts, caller, parse_spec({**given, **ids}), ticket)
