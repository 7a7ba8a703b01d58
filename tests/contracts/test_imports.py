"""What a fresh interpreter may load: the static import contracts do not see re-exports, so these start a clean one."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "onnx", "onnx_ir", "onnxruntime", "numpy", "workers")


def loaded_after(statement: str) -> set[str]:
    """Return the top-level modules that a clean interpreter holds after `statement`."""
    code = f"{statement}\nimport sys\nprint(' '.join(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["app.main", "app.cli", "app.serve", "app.client"])
def test_the_web_process_loads_neither_the_engine_nor_its_tools(module: str) -> None:
    """Importing the web side leaves torch, onnx, numpy and the workers out of memory."""
    loaded = loaded_after(f"import {module}")

    assert set() == loaded & set(HEAVY)


@pytest.mark.parametrize(
    "module",
    [
        "workers.supervisor",
        "workers.celery_app",
        "workers.housekeeping",
        "workers.pruning.groups.find",
        "workers.pruning.surgery.cut",
        "workers.pruning.allocation.rank",
        "workers.pruning.measure.latency",
        "workers.pruning.measure.stopwatch",
        "workers.pruning.latency.model",
        "workers.edge_agent",
        "workers.edge_measure",
    ],
)
def test_the_torch_free_parts_stay_torch_free(module: str) -> None:
    """Supervising, grouping, allocating, cutting and measuring work without torch in memory."""
    assert "torch" not in loaded_after(f"import {module}")


@pytest.mark.parametrize("module", ["workers.edge_agent", "workers.edge_link", "workers.edge_measure"])
def test_the_edge_agent_carries_no_service_code(module: str) -> None:
    """A device needs httpx, numpy and ONNX Runtime; what waits for work needs only the first."""
    loaded = loaded_after(f"import {module}")
    runtime = {"numpy", "onnxruntime"} if module != "workers.edge_measure" else set()

    assert set() == loaded & (
        {"app", "pydantic", "sqlalchemy", "celery", "redis", "torch", "onnx", "onnx_ir"} | runtime
    )
