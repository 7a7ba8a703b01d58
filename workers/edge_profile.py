"""What each operator of a network takes, from the profile that ONNX Runtime writes."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from workers.pruning.graph.runtime import Session
from workers.pruning.types import AnyArray

Json = dict[str, Any]

RUNS: Final = 10
_SUFFIX: Final = "_kernel_time"
_MICROSECONDS: Final = 1e3  # in a millisecond


def profile(network: Path, feeds: Mapping[str, AnyArray], *, threads: int, provider: str, most: int) -> list[Json]:
    """Give the `most` slowest operators, slowest first: node, operator, who ran it, mean milliseconds of a run.

    Nodes are those of the optimised graph: fused and reordered ones have the runtime's names.

    Raises:
        InvalidGraph: the network does not load or run.
    """
    with tempfile.TemporaryDirectory(prefix="espalier-profile-") as folder:
        session = Session(network, threads=threads, provider=provider, profile_to=str(Path(folder) / "trace"))
        for _ in range(RUNS + 1):
            session.run_feeds(feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return sorted(_operators(events), key=lambda operator: -operator["ms"])[:most]


def _operators(events: list[Json]) -> Iterator[Json]:
    """Give each operator's mean over all runs but the first, which still allocates."""
    spent: dict[tuple[str, str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            said = event.get("args", {})
            key = (event["name"].removesuffix(_SUFFIX), said.get("op_name", ""), said.get("provider", ""))
            spent.setdefault(key, []).append(event["dur"] / _MICROSECONDS)
    for (node, operator, provider), milliseconds in spent.items():
        later = milliseconds[1:] or milliseconds
        yield {
            "node": node[:1024],
            "operator": operator[:255],
            "provider": provider[:255],
            "ms": sum(later) / len(later),
        }
