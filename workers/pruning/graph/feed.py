"""Arrays on their way into a GraphModule, laid out as convolutions run fastest."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import torch

from workers.pruning.graph.execute import GraphModule
from workers.pruning.types import AnyArray


def frozen_module(graph: ir.Model, device: str) -> GraphModule:
    """The graph ready to be looked at: no trained parameters, stored BatchNormalization statistics, on the device."""
    module = GraphModule(graph, trainable=False).eval().to(torch.device(device))
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return module


def tensors(arrays: Sequence[AnyArray], device: str) -> list[torch.Tensor]:
    """The inputs of one batch as tensors; images have their channels last in memory, the shape stays.

    Measured: ResNet-56 on one core runs forward and backward in 0.77 of the time of the other layout.
    """
    return [_tensor(array, device) for array in arrays]


def has_fixed_batch(graph: ir.Model) -> bool:
    """Whether the network takes one number of samples only."""
    shape = graph.graph.inputs[0].shape
    return shape is not None and len(shape) > 0 and isinstance(shape[0], int)


def _tensor(array: AnyArray, device: str) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array)).to(device)
    if tensor.dtype is torch.float16:
        tensor = tensor.float()
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
