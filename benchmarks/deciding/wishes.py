"""What the command line asks of a table; what it leaves out is the table's own choice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.deciding.workbench import Means

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """Networks, methods, ratios, seeds, steps, epochs; and the means of the run."""

    means: Means
    asked: Mapping[str, Sequence[object]]
    full: bool = False  # measure what is otherwise extrapolated

    def of(self, name: str, usual: tuple[Value, ...]) -> tuple[Value, ...]:
        """What was asked for under this name, or what is usual."""
        given = self.asked.get(name)
        return tuple(given) if given else usual  # type: ignore[arg-type]  # the parser gave each its type
