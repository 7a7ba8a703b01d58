"""Moments taken line by line are those of single positions."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from workers.pruning.compensation.lines import Lines
from workers.pruning.compensation.solve import Rows
from workers.pruning.graph import design


def convolution(kernel, **attributes):
    """A Conv node and its weights, 3 channels to 4."""
    weight = torch.randn(4, 3, *kernel, generator=torch.Generator().manual_seed(1))
    return ir.node("Conv", [], attributes=attributes, num_outputs=1), weight


CASES = {
    "padded": ((3, 3), (7, 6), {"pads": [1, 1, 1, 1]}),
    "padded on one side": ((3, 3), (7, 6), {"pads": [0, 0, 1, 2]}),
    "stepped between lines": ((3, 3), (9, 6), {"pads": [1, 1, 1, 1], "strides": [2, 1]}),
    "dilated": ((3, 3), (9, 8), {"pads": [2, 2, 2, 2], "dilations": [2, 2]}),
    "of 2 x 5": ((2, 5), (6, 9), {}),
    "shorter lines than the kernel": ((3, 5), (6, 2), {"pads": [1, 2, 1, 2]}),
    "in three dimensions": ((2, 2, 3), (4, 3, 5), {}),
}


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_lines_and_positions_solve_alike(name, centred):
    """All lines and all positions of a convolution are the same rows, so both give the same weights."""
    kernel, spatial, attributes = CASES[name]
    node, weight = convolution(kernel, **attributes)
    generator = torch.Generator().manual_seed(2)
    source = torch.randn(5, 3, *spatial, generator=generator) + 0.5
    rank = len(kernel)
    pads, strides, dilations = (
        attributes.get(key, [value] * (2 * rank if key == "pads" else rank))
        for key, value in (("pads", 0), ("strides", 1), ("dilations", 1))
    )
    made = [
        (spatial[i] + pads[i] + pads[rank + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i in range(rank)
    ]
    wanted = torch.randn(5, 4, *made, generator=generator)
    matrix, bias = design.to_matrix(node, weight), torch.zeros(1, 4)

    positions = torch.arange(5 * int(np.prod(made)))
    rows = Rows(len(positions), centred=centred)
    rows.add(
        design.inputs_at(node, source, weight, wanted.shape, positions),
        design.outputs_at(wanted, 1, positions)[None],
    )
    lines = Lines(design.columns(node, kernel), num_channels=3, centred=centred)
    for part in (slice(0, 2), slice(2, 5)):
        whole = torch.arange(len(source[part]) * int(np.prod(made[:-1])))
        u = design.lines_at(node, source[part], weight, wanted[part].shape, whole)
        lines.add(u, wanted[part].movedim(1, -1).reshape(len(whole), made[-1], 4).transpose(0, 1))
    moments = lines.moments()
    assert moments is not None
    assert moments.count == rows.count

    by_rows = rows.solve(matrix, bias, 0.1)
    by_lines = Rows.of(moments, centred=centred).solve(matrix, bias, 0.1)
    np.testing.assert_allclose(by_lines.weight, by_rows.weight, atol=2e-5)
    np.testing.assert_allclose(by_lines.bias, by_rows.bias, atol=2e-5)


def test_layers_without_shared_inputs_have_no_lines():
    """A kernel of one column, steps along the line, and groups share nothing between neighbours."""
    node, weight = convolution((3, 3))
    assert design.has_lines(node, weight)
    assert not design.has_lines(convolution((3, 1))[0], torch.zeros(4, 3, 3, 1))
    assert not design.has_lines(convolution((3, 3), strides=[1, 2])[0], weight)
    assert not design.has_lines(convolution((3, 3), group=3)[0], torch.zeros(3, 1, 3, 3))


def test_nothing_gives_nothing():
    """Without a line there are no moments."""
    assert Lines([0, 1], num_channels=2, centred=True).moments() is None
