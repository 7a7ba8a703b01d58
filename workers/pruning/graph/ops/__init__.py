"""ONNX operators as torch functions: the registry that the executor compiles from and the documentation lists."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import onnx

from workers.pruning.graph.caps import OLDEST_OPSET
from workers.pruning.graph.ops import (
    activation,
    attention,
    conv,
    elementwise,
    linear,
    norm,
    pool,
    quantised,
    recurrent,
    reduction,
    resize,
    select,
    shape,
)
from workers.pruning.graph.ops.site import Operator

OPERATORS: Final[Mapping[str, Operator]] = {
    **conv.OPERATORS,
    **linear.OPERATORS,
    **attention.OPERATORS,
    **norm.OPERATORS,
    **activation.OPERATORS,
    **elementwise.OPERATORS,
    **pool.OPERATORS,
    **quantised.OPERATORS,
    **recurrent.OPERATORS,
    **reduction.OPERATORS,
    **shape.OPERATORS,
    **select.OPERATORS,
    **resize.OPERATORS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """What is said about an operator in the documentation."""

    summary: str
    first_opset: int
    last_opset: int | None  # None: up to the newest


def supported_ops() -> dict[str, Support]:
    """Every operator that a graph can be run with, in alphabetical order, with its range of opsets."""
    history: dict[str, dict[int, bool]] = {name: {} for name in sorted(OPERATORS)}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.name in history:
            history[schema.name][schema.since_version] = schema.deprecated
    return {name: _support(OPERATORS[name].summary, versions) for name, versions in history.items()}


def _support(summary: str, versions: Mapping[int, bool]) -> Support:
    """The range in which an operator is valid; `versions` says which version of it is deprecated."""
    newest = max(versions)
    usable = [version for version, deprecated in versions.items() if not deprecated]
    withdrawn = [version for version, deprecated in versions.items() if deprecated and version < newest]
    first = min(version for version in usable if version > max(withdrawn, default=0))
    return Support(
        summary=summary,
        first_opset=max(first, OLDEST_OPSET),
        last_opset=newest - 1 if versions[newest] else None,
    )
