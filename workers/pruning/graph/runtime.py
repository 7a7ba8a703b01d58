"""ONNX Runtime sessions from bytes: what verifies, judges and times the networks we ship."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime as ort

from workers.pruning.errors import InvalidGraph, OutOfMemory, UnknownShape
from workers.pruning.graph.providers import CPU, available, session_providers, session_threads
from workers.pruning.graph.split import as_file_or_bytes
from workers.pruning.types import AnyArray, TensorSpec

PROVIDER: Final = CPU
SEVERITY_ERROR: Final = 3  # warnings about other people's exports are not ours to print
DTYPES: Final = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(uint16)": "uint16",
    "tensor(int16)": "int16",
    "tensor(uint32)": "uint32",
    "tensor(int32)": "int32",
    "tensor(uint64)": "uint64",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


class Session:
    """A network in ONNX Runtime, on the CPU unless another provider is named, with a fixed number of threads.

    It is given as bytes, or as the path of a file, which takes one copy less of it in memory.

    Raises:
        InvalidGraph: ONNX Runtime does not accept the network; carries its reason.
    """

    def __init__(
        self,
        network: bytes | Path,
        *,
        threads: int = 1,
        optimised: bool = True,
        provider: str = PROVIDER,
        profile_to: str | None = None,
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = session_threads(provider, threads=threads)
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = SEVERITY_ERROR
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
        if profile_to is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile_to
        if provider not in available():
            raise InvalidGraph("This ONNX Runtime lacks the provider", actual=provider, allowed=", ".join(available()))
        try:
            with _readable(network) as readable:
                self._session = ort.InferenceSession(
                    readable, options, providers=session_providers(provider, threads=threads)
                )
        except Exception as error:  # its exceptions share no base of their own
            raise InvalidGraph("ONNX Runtime does not load the network", actual=str(error)) from error
        if (used := self._session.get_providers()[0]) != provider:  # it falls back to the CPU without an error
            raise InvalidGraph("The provider does not start on this machine", actual=used, allowed=provider)
        self.inputs = tuple(_spec(value) for value in self._session.get_inputs())
        self.outputs = tuple(_spec(value) for value in self._session.get_outputs())

    def end_profiling(self) -> str:
        """Stop a profile that was begun with `profile_to`; returns the path of its file."""
        return str(self._session.end_profiling())

    def run(self, arrays: Sequence[AnyArray]) -> tuple[AnyArray, ...]:
        """Run on one array per input, in order; returns the outputs in order.

        Raises:
            InvalidGraph: the network fails on these inputs.
            OutOfMemory: a tensor could not be allocated.
        """
        return self.run_feeds({spec.name: array for spec, array in zip(self.inputs, arrays, strict=True)})

    def run_feeds(self, feeds: Mapping[str, AnyArray]) -> tuple[AnyArray, ...]:
        """Run on arrays by input name; as `run`."""
        try:
            return tuple(self._session.run(None, feeds))
        except Exception as error:
            text = str(error)
            if "bad_alloc" in text or "Failed to allocate" in text:
                raise OutOfMemory("The network does not fit into memory", actual=text) from error
            shapes = {name: list(array.shape) for name, array in feeds.items()}
            raise InvalidGraph("The network fails in ONNX Runtime", where=str(shapes), actual=text) from error


def runtime_version() -> str:
    """Return the version of ONNX Runtime."""
    return str(ort.__version__)


def fixed_batch(inputs: Sequence[TensorSpec]) -> int | None:
    """Return the batch size that the inputs are fixed to, or None where it is free."""
    for spec in inputs:
        if spec.shape and isinstance(spec.shape[0], int):
            return spec.shape[0]
    return None


def input_shape(spec: TensorSpec, *, batch: int, given: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Return a full shape for an input: its own lengths, `batch` for a free first axis, `given` for what else is free.

    A network that is fixed to a batch keeps it, whatever the first axis of `given` says.

    Raises:
        UnknownShape: an axis is free and nothing says how long it is, or `given` contradicts the network.
    """
    if given is not None:
        if spec.shape and given and isinstance(spec.shape[0], int):
            given = (spec.shape[0], *given[1:])
        fits = len(given) == len(spec.shape) and all(
            not isinstance(own, int) or own == length for own, length in zip(spec.shape, given, strict=True)
        )
        if not fits:
            raise UnknownShape(
                "The shape given is not one that the input takes",
                where=f"input {spec.name!r}",
                actual=list(given),
                allowed=list(spec.shape),
            )
        return given
    lengths = [length if isinstance(length, int) else None for length in spec.shape]
    if lengths and lengths[0] is None:
        lengths[0] = batch
    for axis, length in enumerate(lengths):
        if length is None:
            raise UnknownShape(
                "An axis has no fixed length",
                where=f"input {spec.name!r}, axis {axis}",
                actual=list(spec.shape),
                allowed="a length for every axis but the first",
                advice="Give the shape to use, or export the network with a fixed input size.",
            )
    return tuple(length for length in lengths if length is not None)


def random_inputs(
    inputs: Sequence[TensorSpec],
    *,
    seed: int,
    batch: int = 1,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> tuple[AnyArray, ...]:
    """Draw seeded inputs by dtype: floats Gaussian, uint8 over its range, other integers and booleans 0 or 1.

    0 and 1 are valid indices of every table that has two rows, which larger random integers are not.

    Raises:
        UnknownShape: an axis other than the first has no fixed length and `shapes` does not say.
    """
    rng = np.random.default_rng(seed)
    arrays: list[AnyArray] = []
    for spec in inputs:
        shape = input_shape(spec, batch=batch, given=(shapes or {}).get(spec.name))
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            arrays.append(rng.standard_normal(shape).astype(dtype))
        else:
            arrays.append(rng.integers(0, 256 if dtype == np.uint8 else 2, shape).astype(dtype))
    return tuple(arrays)


def _readable(network: bytes | Path) -> AbstractContextManager[bytes | str]:
    """Give a network in a form that ONNX Runtime takes."""
    return nullcontext(str(network)) if isinstance(network, Path) else as_file_or_bytes(network)


def _spec(value: ort.NodeArg) -> TensorSpec:
    if value.type not in DTYPES:
        raise InvalidGraph(
            "An input or output has a type that is not run here",
            where=repr(value.name),
            actual=value.type,
            allowed=", ".join(DTYPES),
        )
    shape = tuple(length if isinstance(length, int | str) else None for length in value.shape)
    return TensorSpec(name=value.name, dtype=DTYPES[value.type], shape=shape)
