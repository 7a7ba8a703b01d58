"""Run every measurement behind docs/benchmarks.md, one after another: `make bench`. It takes hours on two cores."""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = (
    ("benchmarks.vgg16_size",),
    ("benchmarks.latency", "--round-to", "0", "1", "8"),
    ("benchmarks.latency_alignment",),
    ("benchmarks.latency_model",),
    ("benchmarks.latency_target", "--train"),
    ("benchmarks.polling",),
    ("benchmarks.upload",),
    ("benchmarks.service_overhead",),
    ("benchmarks.agent",),
    ("benchmarks.two_devices",),
    ("benchmarks.coverage",),
    ("benchmarks.resnet56", "--exports", "legacy_bn", "dynamo_bnfolded", "legacy_bnfolded", "dynamo_bn"),
)


def main() -> int:
    """Run all; go on after a failure and say at the end which failed."""
    failed = []
    for command in COMMANDS:
        print(f"\n## python -m {' '.join(command)}", flush=True)
        started = time.perf_counter()
        if subprocess.run([sys.executable, "-m", *command], check=False, cwd=ROOT).returncode:
            failed.append(command[0])
        print(f"({time.perf_counter() - started:.0f} s)", flush=True)
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall ran")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
