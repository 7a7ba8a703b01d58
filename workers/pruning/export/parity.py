"""The file against the graph it came from: ONNX Runtime, graph optimisation off and on, beside torch."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir
import torch

from workers.pruning.errors import InvalidGraph, ParityFailed
from workers.pruning.graph.execute import GraphModule
from workers.pruning.graph.load import load
from workers.pruning.graph.runtime import Session, fixed_batch
from workers.pruning.graph.save import twin_bytes
from workers.pruning.graph.twin import computes_in_bfloat16
from workers.pruning.types import AnyArray, Phase, Run

BATCHES: Final = (1, 3)
# Largest difference of an output over its largest value. float32: sums in another order, over a hundred layers;
# float16: its own rounding is 5e-4 a step, and torch computes it in float32.
TOLERANCES: Final[Mapping[str, float]] = {"float64": 1e-8, "float32": 1e-4, "float16": 2e-2}
# Inputs unlike any that a network was made for can be so ill-conditioned that two correct orders of summation differ by
# more. How much shows in ONNX Runtime's own two results, and up to ten times that is allowed, within a bound.
SPREAD_FACTOR: Final = 10.0
SPREAD_BOUND: Final = 10.0  # times the tolerance
ABSOLUTE: Final = 1e-7  # where an output is almost zero: ONNX Runtime's sigmoid is an approximation, 3e-8 off
EXACT_SHARE: Final = 0.99  # of integer outputs; an argmax may turn where two scores are equal but for rounding


def parity(content: bytes, graph: ir.Model, inputs: Sequence[AnyArray], run: Run) -> float:
    """Return the largest absolute difference between torch and ONNX Runtime on the same inputs.

    Compared with graph optimisation off and on, at batch 1 and 3, or at the one batch that the network is fixed to;
    the first samples of `inputs` are used, again from the start where there are too few.

    A file that computes in bfloat16 is compared through its float32 twin, see `graph.twin`.

    Raises:
        ParityFailed: an output differs in shape, or by more than the tolerance of its dtype, relative to its largest
            value; says which output, at which batch.
        InvalidGraph: ONNX Runtime does not load or run the file.
        UnsupportedOperator: torch cannot run the graph.
    """
    module = GraphModule(graph, trainable=False).eval()
    if computes_in_bfloat16(graph):
        content = twin_bytes(load(content))
    sessions = {optimised: Session(content, optimised=optimised) for optimised in (False, True)}
    sizes = working_batches(sessions[False], inputs)
    worst = 0.0
    for step, size in enumerate(sizes):
        batch = [first(array, size) for array in inputs]
        wanted = run_torch(module, batch)
        found = {optimised: session.run(batch) for optimised, session in sessions.items()}
        for number, spec in enumerate(sessions[False].outputs):
            pair = (found[False][number], found[True][number])
            worst = max(worst, compare(pair, wanted[number], f"output {spec.name!r}, batch {size}"))
        run.report(Phase.VERIFY, 0.3 * (step + 1) / len(sizes), "torch beside ONNX Runtime")
    return worst


def working_batches(session: Session, inputs: Sequence[AnyArray]) -> tuple[int, ...]:
    """Return the batches to compare at: 1 and 3, or the one that the network is fixed to.

    Some exports call the batch free and hold 1 in a constant all the same; that surgery did not do this is checked
    there, beside the original.
    """
    fixed = fixed_batch(session.inputs) or fixed_batch(session.outputs)
    if fixed:
        return (fixed,)
    try:
        session.run([first(array, max(BATCHES)) for array in inputs])
    except InvalidGraph:
        return (1,)
    return BATCHES


def first(array: AnyArray, size: int) -> AnyArray:
    """Return the first `size` samples, from the start again where there are fewer."""
    return np.ascontiguousarray(array[np.arange(size) % len(array)])


def run_torch(module: GraphModule, batch: Sequence[AnyArray]) -> list[AnyArray]:
    """Run the module on arrays."""
    with torch.no_grad():
        return [output.numpy() for output in module(*(torch.from_numpy(array) for array in batch))]


def compare(found: tuple[AnyArray, AnyArray], wanted: AnyArray, where: str) -> float:
    """Return the largest absolute difference of one output, from ONNX Runtime unoptimised and optimised, to torch's.

    Raises:
        ParityFailed: see `parity`.
    """
    for given, state in zip(found, ("off", "on"), strict=True):
        if given.shape != wanted.shape:
            raise ParityFailed(
                "torch and ONNX Runtime give different shapes",
                where=f"{where}, graph optimisation {state}",
                actual=list(given.shape),
                allowed=list(wanted.shape),
            )
    if found[0].dtype.kind != "f":
        return compare_exact(found, wanted, where)
    scale = float(np.max(np.abs(wanted), initial=0.0))
    tolerance = TOLERANCES[found[0].dtype.name]
    spread = distance(*found) / scale if scale else 0.0
    relative = min(max(tolerance, SPREAD_FACTOR * spread), SPREAD_BOUND * tolerance)
    largest = max(distance(given, wanted) for given in found)
    if not (np.isfinite(largest) and largest <= ABSOLUTE + relative * scale):
        raise ParityFailed(
            "torch and ONNX Runtime disagree",
            where=where,
            actual=f"a difference of {largest:.2e} where values reach {scale:.2e}",
            allowed=f"{relative:.0e} of the largest value, for {found[0].dtype}",
        )
    return largest


def compare_exact(found: Sequence[AnyArray], wanted: AnyArray, where: str) -> float:
    """Return 0 if integers are equal, but for a few.

    Raises:
        ParityFailed: see `parity`.
    """
    share = min(float(np.mean(given == wanted)) if given.size else 1.0 for given in found)
    if share < EXACT_SHARE:
        raise ParityFailed(
            "torch and ONNX Runtime disagree",
            where=where,
            actual=f"{share:.1%} of values equal",
            allowed=f"at least {EXACT_SHARE:.0%}",
        )
    return 0.0


def distance(a: AnyArray, b: AnyArray) -> float:
    """Return the largest absolute difference of two arrays; infinite if one of them is not finite."""
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        largest = float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64)), initial=0.0))
    return largest if np.isfinite(largest) else float("inf")
