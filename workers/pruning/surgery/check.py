"""The invariant of surgery: the cut network computes what the masked original computes."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from workers.pruning.errors import InvalidGraph, SurgeryCheckFailed
from workers.pruning.graph.twin import session
from workers.pruning.graph.weights import clone
from workers.pruning.types import AnyArray

_Feed = tuple[AnyArray, ...]

TOLERANCE = 1e-4  # relative to the largest output of the masked network; sums in another order differ by far less
HALF_TOLERANCE = 2e-2  # the same for float16, whose own rounding is 5e-4 a step
LARGE_BYTES = 1 << 28  # weights above which fewer inputs are tried, so that the check stays a matter of seconds
_LARGE_NUM_INPUTS = 2
_NUM_INPUTS = 8
_NUM_ROUNDINGS = 16  # layers deep, each rounds again; the last bit of an input stands for one of them
_SATURATING = frozenset({"HardSigmoid", "Sigmoid", "Softmax"})
_OPEN_AXIS = 64  # length given to axes other than the batch that the file leaves open


def check(masked: ir.Model, cut: ir.Model, *, seed: int, num_inputs: int = _NUM_INPUTS) -> float:
    """Run both networks in ONNX Runtime without graph optimisation; give the largest relative difference.

    Half of the inputs are fed as one batch where the batch is open, so that constants that forgot the batch show.
    Networks with more than 256 MiB of weights get 2 inputs instead of `num_inputs`. One network is in memory at a time.

    An output of a sigmoid or softmax is compared in front of it: behind it, a network that is sure gives 1e-7 or less,
    of which a relative difference says nothing.

    Units: largest absolute difference of an output over the largest absolute value of that output of `masked` on any
    of the inputs. An output that is nothing but rounding, such as what is left of a channel minus the mean of all
    channels where one channel is left, has no such figure: a difference of up to 16 times what the last bit of the
    inputs moves in `masked` is none.

    Networks that compute in bfloat16 are compared through their float32 twins, see `graph.twin`.

    Raises:
        SurgeryCheckFailed: the difference exceeds 1e-4 (2e-2 for float16), shapes differ, or only one of them runs.
        InvalidGraph: ONNX Runtime runs neither.
    """
    return _compared(masked, cut, seed, num_inputs)[0]


def largest_difference(masked: ir.Model, cut: ir.Model, *, seed: int) -> float:
    """Check, and give the largest absolute difference, in the units of the outputs; see `check`.

    Raises:
        SurgeryCheckFailed: as `check`.
    """
    return _compared(masked, cut, seed, _NUM_INPUTS)[1]


def _compared(masked: ir.Model, cut: ir.Model, seed: int, num_inputs: int) -> tuple[float, float]:
    """The largest relative and the largest absolute difference."""
    masked, cut = _unsaturated(masked), _unsaturated(cut)
    rng = np.random.default_rng([seed, 0])
    batches, expected = _reference(masked, rng, num_inputs)
    try:
        found = _outputs(cut, batches)
    except InvalidGraph as error:
        raise SurgeryCheckFailed("The cut network does not run", actual=str(error)) from error
    relative, absolute = 0.0, 0.0
    for index, spec in enumerate(cut.graph.outputs):
        scale = max(_largest(wanted[index]) for wanted in expected) or 1.0
        allowed = HALF_TOLERANCE if expected[0][index].dtype == np.float16 else TOLERANCE
        pairs = zip(expected, found, strict=True)
        apart = _highest([_apart(spec.name or "", wanted[index], given[index]) for wanted, given in pairs])
        if not apart <= allowed * scale:
            rounding = _rounding(masked, batches, expected, index)
            scale = max(scale, _NUM_ROUNDINGS * rounding / allowed if np.isfinite(rounding) else 0.0)
        _require_small(spec.name or "", apart / scale, allowed)
        relative, absolute = max(relative, apart / scale), max(absolute, apart)
    return relative, absolute


def _rounding(masked: ir.Model, batches: Sequence[_Feed], expected: Sequence[_Feed], index: int) -> float:
    """How far one output of the masked network moves when the last bit of every number that it is fed changes."""
    moved = _outputs(masked, [tuple(_next(array) for array in batch) for batch in batches])
    return _highest([_apart("", one[index], other[index]) for one, other in zip(expected, moved, strict=True)])


def _highest(figures: Sequence[float]) -> float:
    """The highest figure; not a number where one of them is none."""
    return float(np.max(figures))


def _next(array: AnyArray) -> AnyArray:
    """The numbers behind these, away from zero and towards it in turns; integers as they are."""
    if not np.issubdtype(array.dtype, np.floating):
        return array
    away = np.arange(array.size).reshape(array.shape) % 2 == 0
    return np.asarray(np.nextafter(array, np.where(away, np.copysign(np.inf, array), 0).astype(array.dtype)))


def _largest(array: AnyArray) -> float:
    return float(np.max(np.abs(array.astype(np.float64)), initial=0.0))


def _unsaturated(graph: ir.Model) -> ir.Model:
    """Give what saturating operators at the outputs read in place of what they give."""
    result = clone(graph)
    for index, value in enumerate(result.graph.outputs):
        producer = value.producer()
        source = None if producer is None or producer.op_type not in _SATURATING else producer.inputs[0]
        if source is not None and source.producer() is not None and not source.is_graph_output():
            result.graph.outputs[index] = source
    return result


def _reference(masked: ir.Model, rng: np.random.Generator, num_inputs: int) -> tuple[list[_Feed], list[_Feed]]:
    """Inputs and what the masked network gives on them; single inputs where it cannot run a batch."""
    count = min(num_inputs, _LARGE_NUM_INPUTS) if _weight_bytes(masked) > LARGE_BYTES else num_inputs
    single = [_draw(masked, rng, 1) for _ in range(count)]
    if _open_batch(masked) and count > 1:
        together = [_draw(masked, rng, count // 2), *single[count // 2 :]]
        try:
            return together, _outputs(masked, together)
        except InvalidGraph:
            pass  # some exports hold the batch size 1 in a constant though they call it open
    return single, _outputs(masked, single)


def _outputs(graph: ir.Model, batches: Sequence[_Feed]) -> list[_Feed]:
    opened = session(graph, optimised=False)
    return [opened.run(batch) for batch in batches]


def _apart(name: str, masked: AnyArray, cut: AnyArray) -> float:
    if masked.shape != cut.shape:
        raise SurgeryCheckFailed(
            "The cut network gives another shape", where=f"output {name!r}", actual=cut.shape, allowed=masked.shape
        )
    return _largest(masked.astype(np.float64) - cut.astype(np.float64))


def _require_small(name: str, relative: float, allowed: float) -> None:
    if not relative <= allowed:
        raise SurgeryCheckFailed(
            "The cut network does not equal the masked original",
            where=f"output {name!r}",
            actual=f"relative difference {relative:.2e}",
            allowed=f"{allowed:.0e}",
        )


def _weight_bytes(graph: ir.Model) -> int:
    return sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value is not None)


def _open_batch(graph: ir.Model) -> bool:
    shapes = [value.shape for value in graph.graph.inputs if value.shape is not None and len(value.shape)]
    return any(not isinstance(shape[0], int) for shape in shapes)


def _draw(graph: ir.Model, rng: np.random.Generator, batch: int) -> _Feed:
    arrays = []
    for value in graph.graph.inputs:
        lengths = [
            length if isinstance(length, int) else (batch if axis == 0 else _OPEN_AXIS)
            for axis, length in enumerate(value.shape or ())
        ]
        dtype = _fed_type(value)
        if np.issubdtype(dtype, np.floating):
            arrays.append(rng.standard_normal(lengths).astype(dtype))
        else:
            arrays.append(rng.integers(0, 2, lengths).astype(dtype))
    return tuple(arrays)


def _fed_type(value: ir.Value) -> np.dtype[np.generic]:
    kind = value.dtype or ir.DataType.FLOAT
    return np.dtype(np.float32) if kind == ir.DataType.BFLOAT16 else np.dtype(kind.numpy())
