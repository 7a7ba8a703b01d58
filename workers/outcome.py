"""What a child told and left, turned into the words of the service: artifacts, measurements, problems."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import structlog
from pydantic import ValidationError

from app.domain.target import parse_target
from app.errors import InvalidTarget, WorkerLost
from app.ids import Digest
from app.services.claims import Claimed
from app.services.results import NewArtifact, NewMeasurement
from app.storage.blobs import CHUNK_BYTES, Blob, BlobStore, put
from workers.child import Death
from workers.folders import OUT, JobFolder, NotAPlainFile

# Whose mistake a failure was, as an HTTP status would say it; what is not listed is about the upload or the request.
_STATUS: Final = {
    "internal-error": 500, "inconsistent-group": 500, "surgery-check-failed": 500, "parity-failed": 500,
    "unstable-timing": 500, "sandbox-unavailable": 500, "out-of-memory": 507, "storage-full": 507,
}  # fmt: skip
_KINDS: Final = frozenset({"onnx", "external_data", "report", "checkpoint"})

MEMORY_ADVICE: Final = (
    "use `dynhp`, which trains a network that becomes smaller, a smaller finetune.batch_size or a smaller network, or "
    "have the operator raise ESPALIER_CHILD_MEMORY_BYTES."
)

log = structlog.get_logger(__name__)


def store_file(store: BlobStore, folder: JobFolder, place: str, name: str) -> Blob:
    """Put a file that the child left into the store.

    Raises:
        NotAPlainFile: it is none.
        StorageFull: the store has no room.
    """
    with folder.opened(place, name) as file:
        return put(store, iter(lambda: file.read(CHUNK_BYTES), b""))


def store_artifacts(store: BlobStore, folder: JobFolder, result: Mapping[str, Any]) -> list[NewArtifact]:
    """Put every artifact that the result lists into the store.

    Raises:
        NotAPlainFile: the result lists what is not there.
        StorageFull: the store has no room.
    """
    return [_artifact(store, folder, entry) for entry in result.get("artifacts") or ()]


def _artifact(store: BlobStore, folder: JobFolder, entry: Mapping[str, Any]) -> NewArtifact:
    name, kind = str(entry.get("file", "")), str(entry.get("kind", ""))
    if kind not in _KINDS:
        raise NotAPlainFile(f"an artifact of kind {kind[:40]!r}; allowed are {', '.join(sorted(_KINDS))}")
    blob = store_file(store, folder, OUT, name)
    return NewArtifact(
        kind=kind,
        name=name,
        sha256=blob.digest,
        size_bytes=blob.size_bytes,
        summary=dict(entry.get("summary") or {}),
        target=_target(entry.get("target")),
    )


def _target(given: object) -> list[Mapping[str, object]] | None:
    if given is None:
        return None
    try:
        return [target.model_dump(mode="json") for target in parse_target(given)]
    except InvalidTarget:
        return None


def measurements(claimed: Claimed, result: Mapping[str, Any], artifacts: Sequence[NewArtifact]) -> list[NewMeasurement]:
    """Give the latencies of a result, each with the digest of the bytes that were timed.

    One that is not complete is left out with a warning: it would be worth less than the job that made it.
    """
    digests = {artifact.name: artifact.sha256 for artifact in artifacts}
    kept = []
    for variant, number in _variants(result):
        for measured in variant.get("measurements") or ():
            before = measured.get("of") == "before"
            if before and number > 0:
                continue  # the original is one network, however many targets there are
            digest = _source_digest(claimed) if before else digests.get(str(variant.get("file", "")))
            fields = {key: value for key, value in measured.items() if key != "of"}
            try:
                kept.append(NewMeasurement.model_validate({**fields, "sha256": digest}))
            except ValidationError as error:
                log.warning("measurement.left_out", reason=str(error).splitlines()[0])
    return kept


def _variants(result: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], int]]:
    for number, variant in enumerate(result.get("variants") or [result]):
        yield variant, number


def _source_digest(claimed: Claimed) -> Digest | None:
    return claimed.network.sha256 if claimed.network else None


def shown(result: Mapping[str, Any]) -> dict[str, Any]:
    """Give the result as the job row keeps it: the samples of measurements have rows of their own."""
    kept = {key: value for key, value in result.items() if key != "measurements"}
    if "variants" in kept:
        kept["variants"] = [shown(variant) for variant in kept["variants"]]
    return kept


def problem_of_event(event: Mapping[str, Any]) -> dict[str, object]:
    """Give the problem object of what a child reported."""
    code = str(event.get("code", "internal-error"))
    rest = {
        key: value for key, value in event.items() if key not in {"event", "code"} and value is not None and value != ""
    }
    return {"type": code, "status": _STATUS.get(code, 422), "errors": [], **rest}


def problem_of_death(death: Death, phase: str | None, *, memory_bytes: int | None = None) -> dict[str, object]:
    """Give the problem object of a child that died without a word; `memory_bytes` is what it was allowed.

    A kernel that runs out of memory kills without a word too, so a kill says what was held beside what was allowed.
    """
    extra: dict[str, object] = {"died": death.record(), "phase": phase}
    if death.signal_name != "SIGKILL":
        return WorkerLost(f"The process of the attempt died: {death}.", extra=extra).problem()
    extra |= _held_and_allowed(death, memory_bytes)
    advice = f"If this machine ran out of memory: {MEMORY_ADVICE}"
    return WorkerLost(f"The process of the attempt died: {death}.", advice=advice, extra=extra).problem()


def problem_of_memory(death: Death, phase: str | None, *, memory_bytes: int | None) -> dict[str, object]:
    """Give the problem object of a child that was stopped because it held more than it is allowed."""
    detail = f"The attempt held more memory than it may use ({death})."
    held = _held_and_allowed(death, memory_bytes)
    more = {"died": death.record(), **held, "advice": MEMORY_ADVICE}
    return problem("out-of-memory", "Not enough memory", detail, status=507, phase=phase, **more)


def _held_and_allowed(death: Death, memory_bytes: int | None) -> dict[str, object]:
    allowed = {} if memory_bytes is None else {"allowed": f"{memory_bytes:,} bytes"}
    return {"actual": f"{death.peak_rss_bytes:,} bytes", **allowed}


def problem(code: str, title: str, detail: str, *, status: int, phase: str | None, **more: object) -> dict[str, object]:
    """Give the problem object of what the supervisor itself found."""
    return {"type": code, "title": title, "status": status, "detail": detail, "errors": [], "phase": phase, **more}
