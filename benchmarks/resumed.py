"""Results of a long benchmark, kept line by line, so that one that was interrupted goes on where it was."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """A file with a line for everything that is done; lines of other settings are passed over."""

    path: Path
    settings: str

    def found(self, name: str) -> Any | None:
        """Give what was found out about `name` under these settings, the newest."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [json.loads(line) for line in lines if line]
        of_name = [one["found"] for one in kept if one["name"] == name and one["settings"] == self.settings]
        return of_name[-1] if of_name else None

    def keep(self, name: str, found: Any) -> None:
        """Write down what was found out about `name`."""
        with self.path.open("a") as file:
            file.write(json.dumps({"name": name, "settings": self.settings, "found": found}) + "\n")
