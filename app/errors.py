"""The service's errors in one tree. Each carries a code, an HTTP status and, where the user can act, advice.

ServiceError
    NotFound                    404  no such thing for this tenant
    ValidationFailed            422  the request does not say what it should; errors[] points at the fields
        InvalidTarget           422  the target does not parse; the message shows the grammar
        TargetUnsupported       422  the target parses, but not this method, or nothing here, can aim at it
        DatasetMismatch         422  the dataset does not fit the model's input or output
    TargetUnreachable           422  the smallest reachable value is stated
    ModelRejected               422  the analysis refused the model; the cause is in the message
    DatasetRejected             422  the same for a dataset
    ModelDeleted                410  the model went while its job waited
    DatasetDeleted              410  the dataset went while its job waited
    EmptyUpload                 422  a body without bytes
    UnsupportedFormat           415  not a format that the service takes (pickles among them)
    FormatUnavailable           501  the format needs a package that was not installed here
    UploadTooLarge              413  above the configured limit
    UploadIncomplete            400  fewer or more bytes than announced
    DigestMismatch              400  the bytes are not those whose digest the client sent
    IdempotencyConflict         409  the first request with this key still runs
    IdempotencyMismatch         422  this key was used for another request
    ModelNotReady               409  the analysis has not ended yet
    StorageFull                 507  no room for these bytes
    BlobMissing                 500  a row names bytes that are not in the store
    BlobCorrupt                 500  stored bytes no longer equal their digest
    DatabaseUnavailable         503  the database does not answer in time
    LeaseLost                   409  another attempt owns the job; the caller must stop
    IllegalTransition           409  the state table has no such step
    Unauthorized                401  no token, or none that is known
    DeviceRevoked               401  the device's token was taken back
    DeviceTokenMisplaced        403  a device's token opens nothing but the device's own work
    DeviceLeaseLost             409  the measurement is leased anew, over, or was cancelled
    MeasurementRefused          422  what was measured is not what was leased, or cannot be
    MeasurementFailed           422  the device could not measure (request failure only)
    DeviceAway                  410  the device did not measure in time (request failure only)
    DeviceGone                  409  the device was not heard of for so long that nothing can be asked of it
    WorkerLost                  500  attempts ended without an answer (job failure only)

The engine has its own tree; workers/attempt.py turns it into a job's failure record.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """One field that is wrong: a JSON pointer into the request, and why."""

    pointer: str
    message: str


class ServiceError(Exception):
    """Base of everything the service refuses or fails at: a detail for people, a code for programs."""

    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Something went wrong inside the service"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        detail: str,
        *,
        advice: str = "",
        errors: Sequence[FieldError] = (),
        extra: Mapping[str, object] | None = None,
        retry_after: timedelta | None = None,
    ) -> None:
        self.detail = detail
        self.advice = advice
        self.errors = tuple(errors)
        self.extra = dict(extra or {})
        self.retry_after = retry_after
        super().__init__(f"{detail} {advice}".strip())

    def problem(self) -> dict[str, object]:
        """Give the problem object (RFC 9457) without `instance`, which only the request knows."""
        body: dict[str, object] = {
            "type": self.code,
            "title": self.title,
            "status": self.status,
            "detail": str(self),
            "errors": [{"pointer": error.pointer, "message": error.message} for error in self.errors],
            "retryable": self.retryable,
        }
        return {**self.extra, **body}


class NotFound(ServiceError):
    """No such thing, or it belongs to another tenant: the answer is the same."""

    code = "not-found"
    title = "Not found"
    status = 404


class ValidationFailed(ServiceError):
    """The request does not say what it should."""

    code = "validation-failed"
    title = "The request is not valid"
    status = 422


class InvalidTarget(ValidationFailed):
    """The target does not parse."""

    code = "invalid-target"
    title = "The target cannot be read"


class TargetUnsupported(ValidationFailed):
    """The target parses, but this method, or anything here, cannot aim at it."""

    code = "target-unsupported"
    title = "This kind of target is not supported"


class DatasetMismatch(ValidationFailed):
    """The dataset does not fit the model."""

    code = "dataset-mismatch"
    title = "The dataset does not fit the model"


class TargetUnreachable(ServiceError):
    """Even with every group at its floor the cost is above the target."""

    code = "target-unreachable"
    title = "The target cannot be reached"
    status = 422


class ModelRejected(ServiceError):
    """The analysis refused the model."""

    code = "model-rejected"
    title = "The model was rejected"
    status = 422


class DatasetRejected(ServiceError):
    """The analysis refused the dataset."""

    code = "dataset-rejected"
    title = "The dataset was rejected"
    status = 422


class ModelDeleted(ServiceError):
    """The model was deleted while its job waited."""

    code = "model-deleted"
    title = "The model was deleted"
    status = 410


class DatasetDeleted(ServiceError):
    """The dataset was deleted while its job waited."""

    code = "dataset-deleted"
    title = "The dataset was deleted"
    status = 410


class EmptyUpload(ServiceError):
    """A body without bytes."""

    code = "empty-upload"
    title = "The upload is empty"
    status = 422


class UnsupportedFormat(ServiceError):
    """Bytes of a kind that the service does not take."""

    code = "unsupported-format"
    title = "This file format is not accepted"
    status = 415


class FormatUnavailable(ServiceError):
    """The format needs a package that was not installed with the service."""

    code = "format-unavailable"
    title = "This service cannot give or take that format"
    status = 501


class UploadTooLarge(ServiceError):
    """More bytes than the limit allows."""

    code = "upload-too-large"
    title = "The upload is too large"
    status = 413


class UploadIncomplete(ServiceError):
    """The body ended before, or after, the length that was announced."""

    code = "upload-incomplete"
    title = "The upload did not arrive whole"
    status = 400
    retryable = True


class DigestMismatch(ServiceError):
    """The bytes that arrived are not those whose digest the client sent."""

    code = "digest-mismatch"
    title = "The upload does not match its digest"
    status = 400
    retryable = True


class IdempotencyConflict(ServiceError):
    """The first request with this key is still being served."""

    code = "idempotency-in-progress"
    title = "A request with this idempotency key is still running"
    status = 409
    retryable = True


class IdempotencyMismatch(ServiceError):
    """The key was used for a different request."""

    code = "idempotency-mismatch"
    title = "The idempotency key belongs to another request"
    status = 422


class ModelNotReady(ServiceError):
    """The analysis has not ended yet."""

    code = "model-not-ready"
    title = "The model is still being analysed"
    status = 409
    retryable = True


class StorageFull(ServiceError):
    """No room for these bytes."""

    code = "storage-full"
    title = "The service has no room for this"
    status = 507
    retryable = True


class BlobMissing(ServiceError):
    """A row names bytes that the store does not have."""

    code = "content-missing"
    title = "The stored content is missing"


class BlobCorrupt(ServiceError):
    """The stored bytes no longer equal the digest they are stored under."""

    code = "content-corrupt"
    title = "The stored content failed its integrity check"


class DatabaseUnavailable(ServiceError):
    """The database does not answer, or not in time."""

    code = "database-unavailable"
    title = "The database does not answer"
    status = 503
    retryable = True


class LeaseLost(ServiceError):
    """Another attempt owns the job, or the job has ended; whoever sees this must stop its work."""

    code = "lease-lost"
    title = "The job is no longer held by this attempt"
    status = 409


class IllegalTransition(ServiceError):
    """The table of states has no such step: our mistake."""

    code = "illegal-transition"
    title = "This change of state is not legal"
    status = 409


class Unauthorized(ServiceError):
    """No token, or none that is known."""

    code = "unauthorized"
    title = "A token is needed"
    status = 401


class DeviceRevoked(ServiceError):
    """The device's token was taken back."""

    code = "device-revoked"
    title = "The device was revoked"
    status = 401


class DeviceTokenMisplaced(ServiceError):
    """A device's token opens nothing but the device's own work."""

    code = "device-token-misplaced"
    title = "A device's token cannot be used here"
    status = 403


class DeviceLeaseLost(ServiceError):
    """The measurement was leased anew, is over, or was cancelled; the agent drops what it has."""

    code = "device-lease-lost"
    title = "The lease is no longer held"
    status = 409


class MeasurementRefused(ServiceError):
    """What was measured is not what was leased, or cannot have happened."""

    code = "measurement-refused"
    title = "The measurement was refused"
    status = 422


class MeasurementFailed(ServiceError):
    """The device could not measure the network; the reason is in its runtime's own words."""

    code = "measurement-failed"
    title = "The device could not measure the network"
    status = 422


class DeviceAway(ServiceError):
    """The device did not measure in time."""

    code = "device-away"
    title = "The device did not answer in time"
    status = 410
    retryable = True


class DeviceGone(ServiceError):
    """The device was not heard of for so long that nothing can be asked of it; a job that waited for one fails so."""

    code = "device-gone"
    title = "The device did not answer"
    status = 409
    retryable = True


class WorkerLost(ServiceError):
    """Every attempt ended without an answer: killed, crashed, or out of memory."""

    code = "worker-lost"
    title = "The job's process died"
    retryable = True


def json_pointer(location: Sequence[str | int]) -> str:
    """Give the RFC 6901 pointer to a field, from its path."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)
