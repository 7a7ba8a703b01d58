"""Every operator and form that has to work: analysed, cut equal to masked, or frozen and named."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from tests.matrix.journey import analyse, feed
from tests.matrix.operator_forms import FORMS
from tests.matrix.operator_graphs import FRONT, HALF, Form
from tests.workers.pruning.surgery.keeps import random_keep, widths
from workers.pruning.allocation.budget import cost
from workers.pruning.graph.cost import count
from workers.pruning.graph.execute import GraphModule
from workers.pruning.graph.load import load
from workers.pruning.graph.runtime import Session
from workers.pruning.graph.save import to_bytes
from workers.pruning.surgery.check import check
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.mask import mask
from workers.pruning.types import Grouping

CASES = [pytest.param(form, opset, id=f"{name}, {opset}") for name, form in FORMS.items() for opset in form.opsets]


def loaded(form: Form, opset: int) -> ir.Model:
    """The graph as the engine reads it."""
    return load(to_bytes(form.graph(opset)))


@pytest.mark.parametrize(("form", "opset"), CASES)
def test_an_operator_is_cut_or_frozen_by_name(form: Form, opset: int) -> None:
    """As many channels as it leaves free may go; cut equals masked, and costs what is counted."""
    graph = loaded(form, opset)
    analysis = analyse(graph)
    grouping = analysis.grouping

    assert form.units == free(grouping)
    if form.named is not None:
        assert form.named in {entry.op_type for entry in grouping.frozen}
    keep = random_keep(grouping, 1)
    smaller = cut(graph, grouping, keep)
    predicted, counted = cost(analysis.model, widths(grouping, keep)), count(smaller)
    assert (predicted.macs, predicted.params) == (counted.macs, counted.params)
    assert check(mask(graph, grouping, keep), smaller, seed=1, num_inputs=2) <= tolerance(form)


@pytest.mark.parametrize(("form", "opset"), CASES)
def test_an_operator_is_executed(form: Form, opset: int) -> None:
    """The executor gives what ONNX Runtime gives, and the layer in front gets a gradient."""
    graph = loaded(form, opset)
    inputs = feed(graph, batch=2)
    module = GraphModule(graph).eval()
    outputs = module(*(torch.from_numpy(array.astype(np.float32)) for array in inputs))

    for expected, actual in zip(Session(to_bytes(graph), optimised=False).run(inputs), outputs, strict=True):
        wanted = np.asarray(expected, np.float32)
        largest = max(float(np.abs(wanted).max()), 1e-3)
        np.testing.assert_allclose(actual.detach().float().numpy(), wanted, atol=tolerance(form) * largest)


def tolerance(form: Form) -> float:
    """Relative to the largest output; half precision keeps three digits."""
    return 1e-2 if form.dtype == HALF else 1e-4


def free(grouping: Grouping) -> int:
    """Units of the layer in front."""
    return sum(group.width for group in grouping.groups if "front" in group.producers)


def test_all_channels_are_free_without_an_operator() -> None:
    """The ruler of this module: twelve."""
    assert FRONT == free(analyse(loaded(FORMS["relu"], 17)).grouping)
