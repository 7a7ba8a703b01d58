"""A job's result as one HTML file that needs nothing else: no network, no script, no font.

Names in a result come from an upload, so they are hostile: every value passes the template's escaping, pictures too.
The page also forbids its reader's browser to load or run anything.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from workers.pruning.types import Phase
from workers.report import devices as on_devices
from workers.report import pictures, summary
from workers.report.drawing import Drawing
from workers.report.extras import Extra, extras
from workers.report.reasons import compared, in_names
from workers.report.summary import Facts, Row, StageRow
from workers.report.words import plain, seconds, share, spelled

_FOLDER: Final = Path(__file__).parent
_PHASES: Final = [phase.value for phase in Phase]
_NUMBERS: Final = re.compile(r"\[\s+(-?\d[-+.e\d,\s]*?)\s+\]")

Line = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What the page says about one pruned network."""

    title: str
    headline: list[str]
    rows: list[Row]
    stages: list[StageRow]
    layers: list[Facts]
    training: list[Line]
    widths: Drawing | None
    stage_quality: Drawing | None
    training_loss: Drawing | None
    latency: Drawing | None
    devices: list[on_devices.DeviceRow]
    gains: Drawing | None
    aims: list[on_devices.Aim]
    extras: list[Extra]


def render(result: Mapping[str, Any]) -> str:
    """Give the page of a result; the same result gives the same bytes."""
    variants = [in_names(variant) for variant in result.get("variants") or [result]]
    return _template().render(
        title=f"Pruned to {', '.join(str(one['target']) for one in variants)}",
        source=result.get("source") or {},
        warnings=_warnings(variants),
        parts=[_part(variant) for variant in variants],
        targets=_targets(variants),
        device_names=on_devices.columns(variants),
        tradeoff=pictures.tradeoff(variants),
        device_tradeoffs=on_devices.tradeoffs(variants),
        device_gains=on_devices.gains(variants) if len(variants) > 1 else None,
        comparison=compared(variants),
        timing=_timing(result),
        frozen=result.get("frozen", ()),
        sections=[(title, lines) for title, lines in _sections(result, variants) if lines],
        document=_document(result),
    )


def _targets(variants: list[Facts]) -> list[Mapping[str, Any]]:
    """Give one row for each of several targets, with a column for each device."""
    names = on_devices.columns(variants)
    rows = summary.target_rows(variants) if len(variants) > 1 else []
    return [{**row, "devices": on_devices.cells(one, names)} for row, one in zip(rows, variants, strict=False)]


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True,
        loader=FileSystemLoader(_FOLDER),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


def _part(variant: Facts) -> Part:
    judged = summary.judged_points(variant)
    return Part(
        title=str(variant["target"]),
        headline=summary.headline(variant),
        rows=summary.rows(variant),
        stages=summary.stages(variant) if judged else [],
        layers=list(variant.get("layers", ())),
        training=_lines(variant["finetune"]) if variant.get("finetune", {}).get("steps") else [],
        widths=pictures.widths(variant.get("layers", ())),
        stage_quality=pictures.stage_quality(variant),
        training_loss=pictures.training(variant),
        latency=pictures.latency(variant),
        devices=on_devices.rows(variant),
        gains=on_devices.gains([variant]),
        aims=on_devices.aims(variant),
        extras=extras(variant),
    )


def _warnings(variants: list[Facts]) -> list[str]:
    """Give every warning once; of several targets, what is not said of all is said of whom."""
    said: dict[str, list[str]] = {}
    for variant in variants:
        unverified = [] if variant.get("verified", True) else ["Unverified: no accuracy was measured."]
        for warning in [*unverified, *map(plain, variant.get("warnings", ()))]:
            said.setdefault(warning, []).append(str(variant["target"]))
    return [
        warning if len(targets) == len(variants) else f"{', '.join(targets)}: {warning}"
        for warning, targets in said.items()
    ]


def _timing(result: Facts) -> list[tuple[str, str, float]]:
    """Give each phase, its seconds as text, and its share of the whole."""
    timing = result.get("timing") or {}
    whole = sum(timing.values()) or 1.0
    in_order = sorted(
        timing.items(), key=lambda entry: _PHASES.index(entry[0]) if entry[0] in _PHASES else len(_PHASES)
    )
    return [(phase, f"{seconds(spent)} ({share(spent / whole)})", spent / whole) for phase, spent in in_order]


def _sections(result: Facts, variants: list[Facts]) -> Iterator[tuple[str, list[Line]]]:
    """Give what the pruning was made of, as titled lists of names and values."""
    yield "Method", _lines({key: result[key] for key in ("method", "seed") if key in result}) + _asked(result)
    yield "Data and preprocessing", _lines(_flat(result.get("data") or {}))
    yield "Proof", [line for variant in variants for line in _proof(variant, many=len(variants) > 1)]
    yield "Uploaded network", _lines(result.get("source") or {})
    yield "Versions", _lines(result.get("versions") or {})
    yield "Machine", _lines(result.get("host") or {})


def _asked(result: Facts) -> list[Line]:
    options = [(f"option: {key}", plain(value)) for key, value in (result.get("options") or {}).items()]
    drop = result.get("accuracy_drop")
    if not drop:
        return options
    allowed = "no limit was set" if drop["allowed"] is None else share(drop["allowed"])
    return [*options, (f"fall of held-out {drop['of']}", share(drop["found"])), ("fall that was allowed", allowed)]


def _proof(variant: Facts, *, many: bool) -> list[Line]:
    """Give the digest of a pruned network, and how far cutting and converting changed what it computes."""
    parity = variant.get("parity") or {}
    stated = {
        "SHA-256": variant.get("sha256"),
        "file, bytes": variant.get("size_bytes"),
        "cut against masked network, largest difference": parity.get("masked_vs_cut_max_abs"),
        "ONNX Runtime against torch, largest difference": parity.get("torch_vs_runtime_max_abs"),
    }
    prefix = f"{variant['target']}: " if many else ""
    return [(f"{prefix}{key}", plain(value)) for key, value in stated.items() if value is not None]


def _lines(facts: Facts) -> list[Line]:
    return [(spelled(key), plain(value)) for key, value in facts.items()]


def _flat(facts: Facts, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        flat |= _flat(value, f"{prefix}{key}: ") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _document(result: Facts) -> str:
    """Give the whole result as JSON; lists of numbers take one line each.

    Where there are several targets, the top of a result repeats the first; here it is said once.
    """
    variants = result.get("variants")
    said = {key: value for key, value in result.items() if not variants or variants[0].get(key) != value}
    text = json.dumps(said, indent=2, sort_keys=True)
    return _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
