"""By what a measurement is known: the digest of everything that was measured and of what ran it.

Ids, times of arrival and names of devices differ from service to service and are left out, so that a record that was
exported, imported elsewhere and comes back is the same record.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Final

FIELDS: Final = (
    "sha256", "kind", "key", "runtime", "runtime_version", "provider", "threads", "batch", "warmup", "samples_ms",
    "load_ms", "peak_rss_bytes", "host",
)  # fmt: skip


def record_digest(record: Mapping[str, object]) -> str:
    """Give the SHA-256 of a measurement, the same wherever it is kept."""
    said = {field: record.get(field) for field in FIELDS}
    said["kind"] = str(said["kind"] or "network")
    said["load_ms"] = float(str(said["load_ms"]))  # a whole number is the same time as its float
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
