"""`python -m workers.edge_bundle espalier-agent.pyz`: the agent as one file to copy onto a device.

The file is a zip that Python runs. On the device it needs Python 3.11, onnxruntime, numpy and httpx, nothing of ours.
"""

import stat
import sys
import zipfile
from pathlib import Path
from typing import Final

# The agent and what it imports; a test runs the bundle alone, so that a missing one is noticed.
MODULES: Final = (
    "workers/__init__.py",
    "workers/edge_agent.py",
    "workers/edge_companion.py",
    "workers/edge_folder.py",
    "workers/edge_link.py",
    "workers/edge_measure.py",
    "workers/edge_profile.py",
    "workers/edge_signs.py",
    "workers/edge_turn.py",
    "workers/pruning/__init__.py",
    "workers/pruning/errors.py",
    "workers/pruning/types.py",
    "workers/pruning/graph/__init__.py",
    "workers/pruning/graph/providers.py",
    "workers/pruning/graph/runtime.py",
    "workers/pruning/graph/split.py",
    "workers/pruning/graph/wire.py",
    "workers/pruning/measure/__init__.py",
    "workers/pruning/measure/host.py",
    "workers/pruning/measure/latency.py",
    "workers/pruning/measure/stats.py",
)
_START: Final = "import sys\nfrom workers.edge_agent import main\nsys.exit(main())\n"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the same sources give the same bytes


def bundle(target: Path) -> None:
    """Write the agent as one runnable file."""
    root = Path(__file__).parents[1]
    sources = {name: (root / name).read_text(encoding="utf-8") for name in MODULES}
    with target.open("wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in {**sources, "__main__.py": _START}.items():
                archive.writestr(zipfile.ZipInfo(name, _EPOCH), text, zipfile.ZIP_DEFLATED)
    target.chmod(target.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


if __name__ == "__main__":
    bundle(Path(sys.argv[1]))
