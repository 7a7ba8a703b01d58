"""What remains: a cost and how much of it may stay, as a share or as an absolute figure with its unit."""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from app.errors import FieldError, InvalidTarget, json_pointer

GRAMMAR: Final = (
    "target   = one *(',' one)\n"
    "one      = metric '=' (percent | amount) ['@' device]\n"
    "metric   = flops | macs | params | size_bytes | latency | peak_activation_bytes\n"
    "percent  = number '%'                 what remains, above 0 and up to 100\n"
    "amount   = number [k | M | G | T]     flops, macs, params\n"
    "         | number (B | kB | MB | GB | KiB | MiB | GiB)   size_bytes, peak_activation_bytes\n"
    "         | number (us | ms | s)       latency\n"
    "examples: flops=50%   macs=62M   params=1.2M   size_bytes=2MB   latency=8ms@dev_local   flops=50%,params=1M"
)
MAX_TARGETS: Final = 16
LOCAL: Final = "dev_local"  # the workers' own processor; it has no agent


class Metric(StrEnum):
    """What a target limits; the words of the API."""

    FLOPS = "flops"
    MACS = "macs"
    PARAMS = "params"
    SIZE_BYTES = "size_bytes"
    LATENCY_MS = "latency_ms"
    PEAK_ACTIVATION_BYTES = "peak_activation_bytes"


_ALIASES: Final = {**{metric.value: metric for metric in Metric}, "latency": Metric.LATENCY_MS}
_COUNT_UNITS: Final = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BYTE_UNITS: Final = {"": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_TIME_UNITS: Final = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_UNITS: Final[Mapping[Metric, Mapping[str, float]]] = {
    Metric.FLOPS: _COUNT_UNITS,
    Metric.MACS: _COUNT_UNITS,
    Metric.PARAMS: _COUNT_UNITS,
    Metric.SIZE_BYTES: _BYTE_UNITS,
    Metric.PEAK_ACTIVATION_BYTES: _BYTE_UNITS,
    Metric.LATENCY_MS: _TIME_UNITS,
}
# [0-9] rather than \d, which also takes the digits of other scripts.
_VALUE: Final = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?)\s*(?P<unit>%|[A-Za-z]*)")
_DEVICE: Final = re.compile(r"dev_[0-9a-z_]{1,36}")


class Target(BaseModel):
    """One limit: `ratio` of the original that remains, or `value` in the metric's own unit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: Metric
    ratio: float | None = Field(
        default=None, gt=0, le=1, allow_inf_nan=False, strict=True, description="Share that REMAINS, in (0, 1]."
    )
    value: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, strict=True, description="Absolute figure in the metric's unit."
    )
    device: str | None = Field(default=None, pattern=r"^dev_[0-9a-z_]{1,36}$", description="For latency_ms only.")

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        if (self.ratio is None) == (self.value is None):
            raise PydanticCustomError("target_amount", "Give either ratio or value, not both and not neither.")
        if self.device is not None and self.metric is not Metric.LATENCY_MS:
            raise PydanticCustomError("target_device", "A device belongs to a latency_ms target only.")
        return self

    def text(self) -> str:
        """Give the short text that parses to this target."""
        amount = (
            f"{100 * self.ratio:.6g}%" if self.ratio is not None else f"{self.value:.12g}{_PLAIN_UNIT[self.metric]}"
        )
        name = "latency" if self.metric is Metric.LATENCY_MS else self.metric.value
        return f"{name}={amount}" + (f"@{self.device}" if self.device else "")

    def limit(self, before: float) -> float:
        """Give the largest allowed figure, in the metric's own unit, where the original costs `before`."""
        if self.ratio is not None:
            return self.ratio * before
        return self.value if self.value is not None else before


_PLAIN_UNIT: Final = {metric: "ms" if metric is Metric.LATENCY_MS else "" for metric in Metric}


def parse_target(given: object) -> tuple[Target, ...]:
    """Read a target in any of its forms: short text, one object, or a list of objects.

    Raises:
        InvalidTarget: it does not parse; the message shows the offending text, its position and the grammar.
    """
    if isinstance(given, str):
        return _parse_text(given)
    if isinstance(given, Target):
        return (given,)
    if isinstance(given, Mapping):
        return (_parse_object(given, []),)
    if isinstance(given, Sequence) and not isinstance(given, bytes):
        return _parse_list(given)
    raise InvalidTarget(f"A target is a text, an object or a list, not {type(given).__name__}.", advice=_advice())


def targets_text(targets: Sequence[Target]) -> str:
    """Give the short text of several targets."""
    return ",".join(target.text() for target in targets)


def _advice() -> str:
    return f"The grammar is:\n{GRAMMAR}"


def _parse_list(given: Sequence[object]) -> tuple[Target, ...]:
    if not 1 <= len(given) <= MAX_TARGETS:
        raise InvalidTarget(f"A list of targets has 1 to {MAX_TARGETS} entries, not {len(given)}.", advice=_advice())
    return _unique([item if isinstance(item, Target) else _parse_object(item, [i]) for i, item in enumerate(given)])


def _parse_object(given: object, location: list[int | str]) -> Target:
    try:
        return Target.model_validate(given)
    except ValidationError as error:
        found = [
            FieldError(pointer=json_pointer([*location, *entry["loc"]]), message=entry["msg"])
            for entry in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        detail = "; ".join(f"{entry.pointer or '/'}: {entry.message}" for entry in found)
        raise InvalidTarget(f"The target object is not valid ({detail}).", advice=_advice(), errors=found) from error


def _unique(targets: Sequence[Target]) -> tuple[Target, ...]:
    metrics = [(target.metric, target.device) for target in targets]
    for metric, device in metrics:
        if metrics.count((metric, device)) > 1:
            raise InvalidTarget(f"The target names {metric.value} twice; allowed is once.", advice=_advice())
    return tuple(targets)


def _parse_text(text: str) -> tuple[Target, ...]:
    if len(text) > 1000:
        raise InvalidTarget(f"The target text has {len(text)} characters; allowed are 1000.", advice=_advice())
    targets: list[Target] = []
    position = 0
    for part in text.split(","):
        targets.append(_parse_one(part, position))
        position += len(part) + 1
    if len(targets) > MAX_TARGETS:
        raise InvalidTarget(f"The target has {len(targets)} parts; allowed are {MAX_TARGETS}.", advice=_advice())
    return _unique(targets)


def _refuse(reason: str, offending: str, position: int) -> InvalidTarget:
    shown = repr(offending) if offending else "nothing"
    return InvalidTarget(f"{reason}: found {shown} at position {position}.", advice=_advice())


def _parse_one(part: str, position: int) -> Target:
    name, equals, rest = part.partition("=")
    metric = _ALIASES.get(name.strip())
    start = position + len(name) - len(name.lstrip())
    if metric is None:
        raise _refuse("A target begins with a metric", name.strip(), start)
    if not equals:
        raise _refuse("A metric is followed by '='", part.strip()[len(name.strip()) :], position + len(part))
    amount, at, device = rest.partition("@")
    where = position + len(name) + 1 + len(amount) - len(amount.lstrip())
    ratio, value = _parse_amount(metric, amount.strip(), where)
    if not at:
        return Target(metric=metric, ratio=ratio, value=value)
    device_at = position + len(name) + 1 + len(amount) + 1
    if not _DEVICE.fullmatch(device.strip()):
        raise _refuse("'@' is followed by a device such as dev_local", device.strip(), device_at)
    if metric is not Metric.LATENCY_MS:
        raise _refuse(f"Only latency is asked for on a device, not {metric.value}", "@" + device.strip(), device_at - 1)
    return Target(metric=metric, ratio=ratio, value=value, device=device.strip())


def _parse_amount(metric: Metric, amount: str, position: int) -> tuple[float | None, float | None]:
    match = _VALUE.fullmatch(amount)
    if match is None:
        raise _refuse("After '=' comes a number with a percent sign or a unit", amount, position)
    number, unit = float(match["number"]), match["unit"]
    if unit == "%":
        if not 0 < number <= 100:
            raise _refuse("A percentage is what remains, above 0 and up to 100", amount, position)
        return number / 100, None
    units = _UNITS[metric]
    if unit not in units:
        allowed = ", ".join(repr(known) for known in ["%", *units] if known)
        where = position + amount.index(unit) if unit else position + len(amount)
        raise _refuse(f"{metric.value} takes one of the units {allowed}", unit, where)
    value = number * units[unit]
    if value <= 0 or value == float("inf"):
        raise _refuse("An amount is above zero and finite", amount, position)
    if metric is not Metric.LATENCY_MS and value <= 1:
        raise _refuse(
            f"{value:g} {metric.value} is not an amount; write {100 * number:g}% for a share", amount, position
        )
    return None, value


def _validate(given: object) -> tuple[Target, ...]:
    """Pass parse_target's refusal on in pydantic's terms."""
    try:
        return parse_target(given)
    except InvalidTarget as error:
        raise PydanticCustomError("invalid_target", "{reason}", {"reason": str(error)}) from error


# Written out, since pydantic does not follow references inside a schema that is given whole; a test holds it to Target.
_TARGET_SCHEMA: Final = {
    "type": "object",
    "additionalProperties": False,
    "required": ["metric"],
    "properties": {
        "metric": {"type": "string", "enum": [metric.value for metric in Metric]},
        "ratio": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
        "value": {"type": ["number", "null"], "exclusiveMinimum": 0},
        "device": {"type": ["string", "null"], "pattern": "^dev_[0-9a-z_]{1,36}$"},
    },
}
_WIRE_SCHEMA: Final = {
    "title": "Target",
    "description": "Short text such as `flops=50%`, one object, or a list of objects which must all hold.",
    "anyOf": [
        {"type": "string", "maxLength": 1000, "examples": ["flops=50%", "macs=62M,size_bytes=2MB"]},
        _TARGET_SCHEMA,
        {"type": "array", "items": _TARGET_SCHEMA, "minItems": 1, "maxItems": MAX_TARGETS},
    ],
}
Targets = Annotated[tuple[Target, ...], BeforeValidator(_validate), WithJsonSchema(_WIRE_SCHEMA, mode="validation")]
