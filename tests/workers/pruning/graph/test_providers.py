"""Execution providers by name, with the options that make threads mean the same; a stand-in says what there is."""

import onnxruntime
import pytest

from workers.pruning.errors import InvalidGraph
from workers.pruning.graph import providers

BOARD = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ONNX Runtime as NVIDIA's boards have it."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(BOARD))


@pytest.mark.usefixtures("board")
@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("cuda", "CUDAExecutionProvider"),
        ("TensorRT", "TensorrtExecutionProvider"),
        ("CPUExecutionProvider", "CPUExecutionProvider"),
        ("best", "TensorrtExecutionProvider"),
    ],
)
def test_a_provider_is_named_short_or_in_full(asked: str, found: str) -> None:
    """`best` is the first that the runtime lists, since it lists the fastest kinds first."""
    assert providers.full_name(asked) == found


@pytest.mark.usefixtures("board")
@pytest.mark.parametrize("asked", ["openvino", "azure", ""])
def test_what_is_not_there_is_refused_with_what_is(asked: str) -> None:
    """A provider that sends networks elsewhere counts as not there: it says nothing of this machine."""
    with pytest.raises(InvalidGraph, match="TensorrtExecutionProvider, CUDAExecutionProvider, CPUExecutionProvider"):
        providers.full_name(asked)


@pytest.mark.usefixtures("board")
def test_what_tensorrt_does_not_take_stays_on_the_accelerator() -> None:
    """CUDA stands behind TensorRT where the runtime has it."""
    found = providers.session_providers("TensorrtExecutionProvider", threads=2)

    assert found == [("TensorrtExecutionProvider", {}), ("CUDAExecutionProvider", {})]


@pytest.mark.parametrize(
    ("provider", "options", "pool"),
    [
        ("OpenVINOExecutionProvider", {"num_of_threads": "4"}, 4),
        ("XnnpackExecutionProvider", {"intra_op_num_threads": "4"}, 1),
        ("CPUExecutionProvider", {}, 4),
    ],
)
def test_threads_mean_the_same_to_every_provider(provider: str, options: dict[str, str], pool: int) -> None:
    """OpenVINO and XNNPACK have threads of their own; XNNPACK's do not compete with the runtime's."""
    assert providers.session_providers(provider, threads=4) == [(provider, options)]
    assert providers.session_threads(provider, threads=4) == pool
