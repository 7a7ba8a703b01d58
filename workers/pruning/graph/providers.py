"""ONNX Runtime's execution providers: which this machine has, how each is told the number of threads."""

from collections.abc import Mapping, Sequence
from typing import Final

import onnxruntime as ort

from workers.pruning.errors import InvalidGraph

CPU: Final = "CPUExecutionProvider"
BEST: Final = "best"
_SUFFIX: Final = "ExecutionProvider"
_REMOTE: Final = frozenset({"AzureExecutionProvider"})  # sends the network elsewhere: no latency of this machine
# Behind these, what they do not take goes to another accelerator before it goes to the processor.
_HELPERS: Final[Mapping[str, tuple[str, ...]]] = {
    "TensorrtExecutionProvider": ("CUDAExecutionProvider",),
    "NvTensorRTRTXExecutionProvider": ("CUDAExecutionProvider",),
    "MIGraphXExecutionProvider": ("ROCMExecutionProvider",),
}
_THREADS: Final[Mapping[str, str]] = {  # the option by which a provider with threads of its own is told how many
    "OpenVINOExecutionProvider": "num_of_threads",
    "XnnpackExecutionProvider": "intra_op_num_threads",
}


def available() -> tuple[str, ...]:
    """Return the providers that compute on this machine, in the runtime's own order: the fastest kinds first."""
    return tuple(name for name in ort.get_available_providers() if name not in _REMOTE)


def full_name(asked: str) -> str:
    """Return the provider meant by a full name, a short one (`cuda`, `xnnpack`) or `best`, the first there is.

    Raises:
        InvalidGraph: this ONNX Runtime lacks it; names those that it has.
    """
    here = available()
    if asked == BEST:
        return here[0]
    short = asked.lower().removesuffix(_SUFFIX.lower())
    for name in here:
        if name.removesuffix(_SUFFIX).lower() == short:
            return name
    raise InvalidGraph("This ONNX Runtime lacks the provider", actual=asked, allowed=", ".join(here))


def session_providers(provider: str, *, threads: int) -> list[tuple[str, dict[str, str]]]:
    """Return what a session is opened with: the provider and its helpers, each with its options.

    ONNX Runtime itself runs on the CPU what none of them takes; a profile says of every operator who ran it.
    """
    names: Sequence[str] = [provider, *(name for name in _HELPERS.get(provider, ()) if name in available())]
    return [(name, {_THREADS[name]: str(threads)} if name in _THREADS else {}) for name in names]


def session_threads(provider: str, *, threads: int) -> int:
    """Return how many threads ONNX Runtime's own pool has; one where it would compete with XNNPACK's.

    Source: ONNX Runtime, "XNNPACK Execution Provider", recommended configuration.
    """
    return 1 if provider == "XnnpackExecutionProvider" else threads
