"""How many calibration samples fit into memory while two networks are walked through side by side."""

from collections.abc import Sequence
from typing import Final

import onnx_ir as ir
import torch

from workers.pruning.compensation.walk import peak_bytes
from workers.pruning.errors import InvalidDataset
from workers.pruning.graph.feed import has_fixed_batch, tensors
from workers.pruning.types import AnyArray

MOST_BYTES: Final = 2 * 2**30  # of values at a time


def fitting_inputs(
    graphs: Sequence[ir.Model], batches: Sequence[Sequence[AnyArray]], device: str
) -> dict[str, list[torch.Tensor]]:
    """Give the inputs by name, one tensor per batch: as many samples as fit, from the first on.

    Raises:
        InvalidDataset: there is no sample.
    """
    if not sum(len(batch[0]) for batch in batches):
        raise InvalidDataset("compensation needs calibration inputs", actual=0, allowed="at least 1")
    first = graphs[0].graph.inputs
    room = max(1, MOST_BYTES // max(1, sum(peak_bytes(graph) for graph in graphs)))
    fixed = has_fixed_batch(graphs[0])
    inputs: dict[str, list[torch.Tensor]] = {value.name or "": [] for value in first}
    for batch in batches:
        length = len(batch[0]) if fixed else min(len(batch[0]), room)
        if length == 0 or (room <= 0 and inputs[first[0].name or ""]):
            break
        room -= length
        for value, tensor in zip(first, tensors([array[:length] for array in batch], device), strict=True):
            inputs[value.name or ""].append(tensor)
    return inputs
