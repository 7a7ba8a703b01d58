"""What the agent of a device takes: time to import, memory beside the network, seconds from one answer to the next.

Import: processor time of `import workers.edge_agent` in a fresh interpreter, the least of several. Memory: the agent's
resident set while it waits, and the measuring process's peak less that of a process that only holds the network in
ONNX Runtime. Cycle: a queue of small networks, from the first request to the last measurement, over their number.

    python -m benchmarks.agent [--cycles 20] [--size-mb 100]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from app.client import Client
from examples.demo import service
from tests.networks import CHAIN, onnx_bytes

ROOT = Path(__file__).resolve().parents[1]
IMPORT = "import time; start = time.process_time(); import workers.edge_agent; print(time.process_time() - start)"
# What any program that runs the network in ONNX Runtime holds: numpy, the runtime, the session, an input.
HELD = (
    "import sys, numpy, onnxruntime as ort; "
    "options = ort.SessionOptions(); options.intra_op_num_threads = 1; "
    "session = ort.InferenceSession(sys.argv[1], options, providers=['CPUExecutionProvider']); "
    "spec = session.get_inputs()[0]; "
    "session.run(None, {spec.name: numpy.zeros([n if isinstance(n, int) else 1 for n in spec.shape], 'float32')}); "
    "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
)
BARE = "import numpy, onnxruntime; print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
MB = 1e6
BOUND_IMPORT_SECONDS, BOUND_BESIDE_MB = 1.0, 150.0


def printed(code: str, *arguments: str) -> float:
    """The number that a fresh interpreter prints."""
    command = [sys.executable, "-c", code, *arguments]
    return float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def large(size_mb: float) -> bytes:
    """A network of one matrix of that size."""
    width = int((size_mb * MB / 4) ** 0.5)
    text = f"large (float[N,{width}] x) => (float[N,{width}] y) <float[{width},{width}] w> {{ [fc] y = MatMul (x, w) }}"
    return onnx_bytes(text)


def peak_mb(client: Client, device: str, model: str, agent: list[str]) -> float:
    """The peak of the measuring process of one network."""
    client.measure(device, model, repeats=6, warmup=1)
    subprocess.run([*agent, "--once"], cwd=ROOT, check=True, capture_output=True)
    return float(next(client.measurements(device=device, model=model))["peak_rss_bytes"]) / MB


def waiting_mb(agent: list[str]) -> float:
    """The agent's own resident set while it waits for work."""
    with subprocess.Popen(agent, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        time.sleep(15)
        found = float(psutil.Process(running.pid).memory_info().rss) / MB
        running.terminate()
    return found


def cycle_seconds(client: Client, device: str, models: list[str], agent: list[str]) -> float:
    """Seconds for one measurement of a queue."""
    for model in models:
        client.measure(device, model, repeats=6, warmup=0)
    started = time.perf_counter()
    subprocess.run([*agent, "--once"], cwd=ROOT, check=True, capture_output=True)
    return (time.perf_counter() - started) / len(models)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--size-mb", type=float, default=100)
    asked = parser.parse_args()
    seconds = min(printed(IMPORT) for _ in range(5))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        network = place / "large.onnx"
        network.write_bytes(large(asked.size_mb))
        (place / "small.onnx").write_bytes(onnx_bytes(CHAIN))
        held, bare = (printed(HELD, str(network)) * 1024 / MB, printed(BARE) * 1024 / MB)
        with service(place / "data") as client:
            made = client.register_device("benchmark")
            agent = [sys.executable, "-m", "workers.edge_agent", "--url", client.url, "--token", made["token"]]
            agent += ["--work-dir", str(place / "agent")]
            models = [client.upload_model(path)["id"] for path in (network, place / "small.onnx")]
            peak = peak_mb(client, made["id"], models[0], agent)
            waiting = waiting_mb(agent)
            cycle = cycle_seconds(client, made["id"], [models[1]] * asked.cycles, agent)
    model_mb = held - bare
    beside = peak - model_mb + waiting
    print("| what | figure | bound |\n|---|---|---|")
    print(f"| import of the agent, processor seconds | {seconds:.3f} | {BOUND_IMPORT_SECONDS:g} |")
    print(f"| the waiting agent, MB | {waiting:.1f} | |")
    print(f"| measuring process at a network of {network_mb(asked.size_mb):.0f} MB, peak MB | {peak:.1f} | |")
    print(f"| a bare process with that network, peak MB | {held:.1f} | |")
    print(
        f"| agent and measuring process less the network's own {model_mb:.1f} MB | {beside:.1f} | {BOUND_BESIDE_MB:g} |"
    )
    print(f"| seconds from measurement to measurement, {asked.cycles} in a row | {cycle:.2f} | |")
    sys.exit(0 if seconds < BOUND_IMPORT_SECONDS and beside < BOUND_BESIDE_MB else 1)


def network_mb(size_mb: float) -> float:
    """What a network of one square matrix really weighs."""
    return float(np.floor((size_mb * MB / 4) ** 0.5)) ** 2 * 4 / MB


if __name__ == "__main__":
    main()
