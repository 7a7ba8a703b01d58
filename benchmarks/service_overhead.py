"""What the service adds to the bare engine: one job through HTTP, queue, child and store, and one without them.

Alternates `espalier serve` + HTTP with `python -m workers.local_job` on the digits network, same spec, same seed; wall
times, and their difference as seconds and share. Bound: 5 % or 2 s, whichever is larger.

    python -m benchmarks.service_overhead [--steps 1500] [--rounds 3]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from app.client import Client
from examples.demo import service

ROOT = Path(__file__).resolve().parents[1]
BOUND_SECONDS, BOUND_SHARE = 2.0, 0.05


def spec(steps: int) -> dict[str, object]:
    """The job, without its inputs."""
    return {"target": [{"metric": "flops", "ratio": 0.5}], "finetune": {"steps": steps}}


def bare_seconds(place: Path, steps: int) -> float:
    """Wall time of the engine alone, process start included."""
    out = Path(tempfile.mkdtemp(dir=place))
    order = {
        "kind": "prune", "spec": {**spec(steps), "method": "auto", "options": {}, "export": {}}, "seed": 0,
        "network": str(place / "digits.onnx"), "dataset": str(place / "digits.npz"), "out": str(out), "num_threads": 1,
    }  # fmt: skip
    (out / "order.json").write_text(json.dumps(order))
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "workers.local_job", out / "order.json"], check=True, cwd=ROOT, capture_output=True
    )
    return time.perf_counter() - started


def served_seconds(client: Client, model: str, dataset: str, steps: int) -> float:
    """Wall time from the POST to the answer that says succeeded."""
    started = time.perf_counter()
    job = client.wait(client.submit(model=model, dataset=dataset, seed=0, **spec(steps)))
    seconds = time.perf_counter() - started
    if job["state"] != "succeeded":
        sys.exit(f"the job ended as {job['state']}: {job['problem']}")
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="espalier-overhead-") as folder:
        place = Path(folder)
        subprocess.run([sys.executable, ROOT / "examples" / "digits.py", place], check=True, capture_output=True)
        with service(place / "data") as client:
            rounds = measure(client, place, asked.steps, asked.rounds)
    bare, served = (statistics.median(column) for column in zip(*rounds, strict=True))
    added = served - bare
    print(f"median of {asked.rounds}: bare {bare:.1f} s, served {served:.1f} s")
    allowed = max(BOUND_SECONDS, BOUND_SHARE * bare)
    print(
        f"added {added:+.1f} s, {added / bare:+.1%}; bound {allowed:.1f} s: {'met' if added <= allowed else 'MISSED'}"
    )


def measure(client: Client, place: Path, steps: int, rounds: int) -> list[tuple[float, float]]:
    """Return (bare, served) seconds of each round."""
    model = client.upload_model(place / "digits.onnx")["id"]
    dataset = client.upload_dataset(place / "digits.npz")["id"]
    while "analysing" in (client.model(model)["state"], client.dataset(dataset)["state"]):
        time.sleep(0.2)
    figures = []
    for number in range(rounds):
        figures.append((bare_seconds(place, steps), served_seconds(client, model, dataset, steps)))
        print(f"round {number + 1}: bare {figures[-1][0]:.1f} s, served {figures[-1][1]:.1f} s", flush=True)
    return figures


if __name__ == "__main__":
    main()
