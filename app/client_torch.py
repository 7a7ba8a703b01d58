"""A torch module as an ONNX file, made on the caller's side: torch code never travels."""

import importlib
from pathlib import Path
from typing import Any


def export_torch(module: Any, example_inputs: tuple[Any, ...], path: Path, *, dynamic_batch: bool) -> None:
    """Write the module as ONNX with torch's exporter, leaving its training mode as it was.

    An example batch of one would be taken for a constant by the exporter, so it is doubled where the batch is dynamic.
    """
    torch = importlib.import_module("torch")
    shapes = None
    if dynamic_batch:
        example_inputs = tuple(
            torch.cat([tensor, tensor]) if tensor.shape[0] == 1 else tensor for tensor in example_inputs
        )
        batch = torch.export.Dim("batch", min=1)
        shapes = tuple({0: batch} for _ in example_inputs)
    was_training = module.training
    module.eval()
    try:
        torch.onnx.export(
            module, example_inputs, path, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False
        )
    finally:
        module.train(was_training)
