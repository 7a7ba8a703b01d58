"""Say what a worker finds on this machine, as JSON: `python -m workers.doctor SCRATCH`.

The process ends inside the sandbox that it tries out; SCRATCH is a folder of the caller's, who removes it.
"""

import json
import os
import sys
from pathlib import Path

import onnxruntime
import torch

from workers.sandbox import Limits, enter

_LIMITS = Limits(memory_bytes=None, cpu_seconds=60, file_bytes=None, open_files=None)


def devices() -> list[str]:
    """Name the devices that torch can use, the CPU first."""
    found = [f"cpu ({os.cpu_count()} cores)"]
    return found + [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def findings(scratch: Path) -> dict[str, object]:
    """Return versions, devices and the state of each sandbox layer (entering the sandbox on the way)."""
    layers = enter(_LIMITS, read=[Path(sys.prefix), Path(sys.base_prefix)], write=[scratch])
    return {
        "torch": torch.__version__,
        "devices": devices(),
        "bfloat16": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),  # noqa: SLF001  # torch has no public name
        "onnxruntime": onnxruntime.__version__,
        "providers": onnxruntime.get_available_providers(),
        "sandbox": layers,
    }


if __name__ == "__main__":
    print(json.dumps(findings(Path(sys.argv[1]))))  # noqa: T201  # the caller reads it
