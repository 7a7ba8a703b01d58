"""Two agents on this host, one with one thread and one with two: two devices, and two plans for one network.

    python -m benchmarks.two_devices [--network resnet20] [--ratio 0.5] [--threads 1 2] [--report report.html]

Starts the service, registers a device for each count of threads, runs an agent for each, and submits one job with the
same latency target on each device. Prints the widths of both plans side by side, the steps that each device was found
to like, and for each group of layers what it takes on each device before and after: the reason why plans differ. The
report of the job, which shows the same, is written to `--report`.

The agents of one host take turns to measure. Anything else that runs beside them is in the figures.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from app.client import Client
from benchmarks.latency_subjects import SUBJECTS
from benchmarks.setting import CIFAR_PREPROCESSING, cifar, host_line, table
from examples.demo import service

ROOT: Final = Path(__file__).resolve().parents[1]
WITH_DATA: Final = ("resnet56", "resnet20")

Facts = Mapping[str, Any]


@contextmanager
def agent(client: Client, folder: Path, threads: int) -> Iterator[str]:
    """A device of its own with its agent at work; gives the device's id."""
    made = client.register_device(f"{threads} thread{'s' if threads > 1 else ''}")
    command = [sys.executable, "-m", "workers.edge_agent", "--url", client.url, "--token", made["token"]]
    command += ["--threads", str(threads), "--work-dir", str(folder / f"agent-{threads}")]
    with (folder / f"agent-{threads}.log").open("wb") as log:
        running = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield str(made["id"])
        finally:
            running.terminate()
            running.wait(30)


def pruned(client: Client, folder: Path, name: str, devices: Sequence[str], ratio: float) -> Facts:
    """The job, ended well: one target for each device."""
    network = folder / f"{name}.onnx"
    network.write_bytes(SUBJECTS[name]())
    fields: dict[str, Any] = {"method": "magnitude", "finetune": {"steps": 0}}
    if name in WITH_DATA:
        data = client.upload_dataset(cifar(folder, held_out=False))["id"]
        fields |= {"method": "auto", "dataset": data, "preprocessing": CIFAR_PREPROCESSING}
    targets = [f"latency={100 * ratio:g}%@{device}" for device in devices]
    job = client.submit(model=client.upload_model(network)["id"], targets=targets, **fields)
    job = client.wait(job["id"], on_progress=_told)
    if job["state"] != "succeeded":
        sys.exit(f"the job ended as {job['state']}: {job.get('problem')}")
    return job


def _told(job: Facts) -> None:
    if sys.stderr.isatty():
        print(f"\r{job.get('phase')} {job.get('message') or ''}".ljust(100)[:100], end="", file=sys.stderr)


def shown(variants: Sequence[Facts], devices: Sequence[str], names: Sequence[str]) -> None:
    """Print both plans and what explains them."""
    pursued = [one["facts"]["latency"][device] for one, device in zip(variants, devices, strict=True)]
    rows = [
        [name, f["original_ms"], f["target_ms"], f["reached_ms"], f["corrections"], _steps(f), *_at_the_end(one)]
        for name, f, one in zip(names, pursued, variants, strict=True)
    ]
    header = ["device", "original, ms", "target, ms", "reached, ms", "corrections", "steps learned"]
    table([*header, "at the end, of the original", "judged by", "met"], rows)
    print("\nwhat each plan takes on each device, of the original:\n")
    table(["plan for", *names], [[name, *_ratios(one, devices)] for name, one in zip(names, variants, strict=True)])
    print("\nwidths:\n")
    widths = [
        [layer["name"], layer["before"], *(_width(one, layer["name"]) for one in variants)]
        for layer in variants[0]["layers"]
    ]
    table(["layer", "original", *(f"plan for {name}" for name in names)], [row for row in widths if row[2] != row[3]])
    print(f"\n{sum(row[2] != row[3] for row in widths)} of {len(widths)} layers differ\n")


def _steps(facts: Facts) -> str:
    return ", ".join(f"{kind} {step}" for kind, step in sorted(facts["steps"].items()))


def _at_the_end(variant: Facts) -> list[object]:
    """What the finished network takes of the original, and the verdict on that."""
    (target,) = variant["targets"]
    return [target["ratio"], target["judged_by"], target["met"]]


def _ratios(variant: Facts, devices: Sequence[str]) -> list[object]:
    found = {one["device"]: one.get("ratio", "-") for one in variant["devices"]}
    return [found.get(device, "-") for device in devices]


def _width(variant: Facts, layer: str) -> object:
    return next((one["after"] for one in variant["layers"] if one["name"] == layer), "-")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20", choices=list(SUBJECTS))
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--threads", type=int, nargs=2, default=(1, 2))
    parser.add_argument("--report", type=Path, default=Path("two-devices.html"))
    asked = parser.parse_args()
    print(f"{host_line()}: {asked.network}, {100 * asked.ratio:g} % of the latency on each device\n", flush=True)
    names = [f"{threads} thread{'s' if threads > 1 else ''}" for threads in asked.threads]
    with tempfile.TemporaryDirectory(prefix="espalier-") as folder, ExitStack() as stack:
        place = Path(folder)
        client = stack.enter_context(service(place / "service"))
        devices = [stack.enter_context(agent(client, place, threads)) for threads in asked.threads]
        job = pruned(client, place, asked.network, devices, asked.ratio)
        shown(job["result"]["variants"], devices, names)
        client.download(job, asked.report, ending="report.html")
    print(f"report: {asked.report}")


if __name__ == "__main__":
    main()
