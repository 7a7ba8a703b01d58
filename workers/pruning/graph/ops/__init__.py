"""ONNX operators as torch functions: the registry that the executor compiles from and the documentation lists."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import onnx

from workers.pruning.graph.caps import OLDEST_OPSET
from workers.pruning.graph.ops import (
    activation,
    conv,
    elementwise,
    linear,
    norm,
    pool,
    reduction,
    resize,
    select,
    shape,
)
from workers.pruning.graph.ops.site import Operator

OPERATORS: Final[Mapping[str, Operator]] = {
    **conv.OPERATORS,
    **linear.OPERATORS,
    **norm.OPERATORS,
    **activation.OPERATORS,
    **elementwise.OPERATORS,
    **pool.OPERATORS,
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
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.name in OPERATORS:
            first[schema.name] = min(first.get(schema.name, schema.since_version), schema.since_version)
            if schema.deprecated:
                last[schema.name] = schema.since_version - 1
    return {
        name: Support(
            summary=OPERATORS[name].summary,
            first_opset=max(first[name], OLDEST_OPSET),
            last_opset=last.get(name),
        )
        for name in sorted(OPERATORS)
    }
