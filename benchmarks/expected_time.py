"""Forecasts of a job's time beside the jobs: `python -m benchmarks.expected_time [NETWORK.onnx DATA.npz ...]`.

Each pair of files is analysed, forecast and pruned to half its MACs in processes as the service's, and the phases are
printed side by side. Without files, the digits network of the demo is trained and used.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from app.domain.expected_time import Known, forecast
from app.domain.methods import parse_spec

ROOT = Path(__file__).resolve().parents[1]
ASKED = {"model": "mdl_1", "target": "macs=50%"}


def main(files: list[str]) -> int:
    """Print forecast and time of every phase."""
    with tempfile.TemporaryDirectory() as folder:
        if not files:
            subprocess.run([sys.executable, ROOT / "examples" / "digits.py", folder], check=True, capture_output=True)
            files = [f"{folder}/digits.onnx", f"{folder}/digits.npz"]
        for network, data in zip(files[::2], files[1::2], strict=True):
            compare(network, data, folder)
    return 0


def compare(network: str, data: str, folder: str) -> None:
    """Forecast one job and run it."""
    analysis = attempt({"kind": "analyse_model", "network": network, "spec": {}}, folder)
    described = attempt({"kind": "analyse_dataset", "dataset": data, "spec": {}}, folder)
    spec = parse_spec(ASKED)
    known = Known.of(analysis, described["num_samples"])
    found = None if known is None else forecast(spec, known, [0.5])
    if found is None:
        print(f"{network}: no forecast")
        return
    asked = spec.model_dump(mode="json")
    result = attempt({"kind": "prune", "network": network, "dataset": data, "spec": asked}, folder)
    print(f"{Path(network).name}: phase, seconds forecast, seconds taken")
    for phase, seconds in found["phases"].items():
        print(f"  {phase:12s} {seconds:8.1f} {result['timing'].get(phase, 0.0):8.1f}")
    middle, taken = sum(found["phases"].values()), sum(result["timing"].values())
    print(f"  {'all':12s} {middle:8.1f} {taken:8.1f}  ratio {taken / middle:.2f}")


def attempt(order: dict[str, Any], folder: str) -> dict[str, Any]:
    """Run one attempt in a process of its own and give its result."""
    path = Path(folder, "order.json")
    path.write_text(json.dumps({"out": f"{folder}/out", "num_threads": 1, **order}))
    done = subprocess.run(
        [sys.executable, "-m", "workers.local_job", str(path)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    results = [event["result"] for event in events if event["event"] == "result"]
    if not results:
        raise SystemExit(f"The attempt gave no result:\n{done.stdout[-500:]}\n{done.stderr[-500:]}")
    found: dict[str, Any] = results[0]
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
