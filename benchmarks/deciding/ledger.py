"""The results file: one JSON line for each finished row, so that a run that was stopped goes on behind its last row."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from workers.pruning.types import Json

Figures = Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table: what it is of, and how to get its figures."""

    table: str
    key: Mapping[str, Json]  # network, method, target, seed, ... : enough to know it again
    compute: Callable[[], Figures]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One finished row as it is stored."""

    table: str
    key: Mapping[str, Json]
    figures: Figures
    setting: Figures  # machine and versions

    @property
    def name(self) -> str:
        """The row in one string."""
        return named(self.table, self.key)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Finished rows in a file that only grows; several processes may write to it."""

    path: Path

    def lines(self) -> list[Line]:
        """Every finished row; of rows that were measured again the last."""
        if not self.path.exists():
            return []
        stored = [json.loads(text) for text in self.path.read_text("utf-8").splitlines() if text.strip()]
        lines = [Line(**{field: entry[field] for field in ("table", "key", "figures", "setting")}) for entry in stored]
        return list({line.name: line for line in lines}.values())

    def finished(self) -> set[str]:
        """Names of the rows that need not be computed again."""
        return {line.name for line in self.lines()}

    def add(self, row: Row, figures: Figures, setting: Figures) -> None:
        """Write a row at once, in one piece."""
        entry = {"table": row.table, "key": dict(row.key), "figures": dict(figures), "setting": dict(setting)}
        text = json.dumps(entry, sort_keys=True, allow_nan=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as file:  # one call: lines of two processes do not mix
            file.write(text.encode())
            os.fsync(file.fileno())


def named(table: str, key: Mapping[str, Json]) -> str:
    """Give the name of a row: the table and its key in a fixed order."""
    return json.dumps([table, dict(key)], sort_keys=True)
