"""The whole job on this machine: start the service, prune a real network over HTTP, show the proof, stop everything.

    python examples/demo.py [--model NET.onnx --data DATA.zip --target flops=50%]

Without arguments it trains the digits network of `digits.py` first. It writes `pruned.onnx` to the current folder.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from rich.console import Console

from app.client import Client
from app.console import JobProgress, result_table

HERE = Path(__file__).resolve().parent
START_SECONDS = 60.0
console = Console()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def service(data_dir: Path) -> Iterator[Client]:
    """Run `espalier serve` on a free port with all its state in `data_dir`; stop it at the end."""
    port = free_port()
    data_dir.mkdir(parents=True)
    log = data_dir / "service.log"
    environment = os.environ | {"ESPALIER_DATA_DIR": str(data_dir), "ESPALIER_PORT": str(port)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            client = Client(f"http://127.0.0.1:{port}")
            wait_until_ready(f"http://127.0.0.1:{port}/readyz", process, log)
            yield client
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def answers(url: str) -> bool:
    """Say whether `url` answers 200."""
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.TransportError:
        return False


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return when the service answers `/readyz`; show its log if it dies or stays silent."""
    deadline = time.monotonic() + START_SECONDS
    while not answers(url):
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"the service did not start; its log says:\n{log.read_text()}")
        time.sleep(0.2)


def prune(client: Client, network: Path, data: Path | None, target: str, output: Path) -> None:
    """Upload, submit, watch, download with the digest verified, and print the before/after table."""
    dataset = {} if data is None else {"dataset": client.upload_dataset(data)["id"]}
    uploaded = client.upload_model(network)
    console.print(f"POST /v1/models        -> {uploaded['id']}  ({uploaded['size_bytes']:,} bytes)")
    job = client.submit(model=uploaded["id"], target=target, **dataset)
    console.print(f"POST /v1/jobs          -> {job['id']}  target {target}")
    with JobProgress(console) as bar:
        job = client.wait(job["id"], on_progress=bar.show)
    if job["state"] != "succeeded":
        sys.exit(f"the job ended as {job['state']}: {job.get('problem')}")
    client.download(job, output)
    console.print(f"GET  /v1/artifacts/... -> {output}  (SHA-256 verified)")
    console.print(result_table(job["result"]))
    for warning in job["result"]["warnings"]:
        console.print(f"note: {warning}")


def main() -> None:
    """Run the demo with the user's files or with digits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--target", default="flops=50%")
    parser.add_argument("--output", type=Path, default=Path("pruned.onnx"))
    asked = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="espalier-") as folder:
        place = Path(folder)
        network, data = asked.model, asked.data
        if network is None:
            console.print("training a small residual network on scikit-learn's digits ...")
            subprocess.run([sys.executable, HERE / "digits.py", place], check=True)
            network, data = place / "digits.onnx", place / "digits.npz"
        with service(place / "service") as client:
            prune(client, network, data, asked.target, asked.output)
        if asked.model is None:
            subprocess.run([sys.executable, HERE / "run_onnx.py", network, asked.output, data], check=True)
    console.print(f"everything stopped; {time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
