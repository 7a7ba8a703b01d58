"""Weights stored in half precision behind a Cast come back as they were stored."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.networks import inputs, onnx_bytes
from tests.workers.pruning.surgery.keeps import random_keep
from workers.pruning.export.write import write
from workers.pruning.graph.load import load
from workers.pruning.graph.runtime import Session
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.storage import rounded
from workers.pruning.graph.values import initializer
from workers.pruning.groups.find import find
from workers.pruning.surgery.cut import cut

KINDS = {"FLOAT16": onnx.TensorProto.FLOAT16, "BFLOAT16": onnx.TensorProto.BFLOAT16}


def stored_in_half(kind: str) -> bytes:
    """A chain of layers whose kernels are halves with a Cast behind each; everything else is float32."""
    model = ir.from_proto(onnx.load_from_string(onnx_bytes("chain_bn")))
    for name in ("conv1_w", "conv2_w", "fc_w"):
        value = model.graph.initializers.pop(name)
        held = initializer(f"{name}_half", value.const_value.numpy().astype(ir.DataType[kind].numpy()))
        model.graph.register_initializer(held)
        cast = ir.node("Cast", [held], {"to": int(ir.DataType.FLOAT)}, name=f"{name}_cast")
        value.name = f"{name}_before"
        value.replace_all_uses_with(cast.outputs[0])
        cast.outputs[0].name = name
        model.graph.insert_before(model.graph[0], cast)
    return ir.to_proto(model).SerializeToString()


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_keeps_the_type_that_weights_are_stored_in(kind: str) -> None:
    """Three kernels are halves again, of the cut shapes, and the file computes what the rounded network computes."""
    original = load(stored_in_half(kind))
    grouping = find(original)
    smaller = cut(original, grouping, random_keep(grouping, 0))
    final = rounded(smaller, original)
    content = write(final, original, {})
    held = {each.name: each for each in onnx.load_from_string(content).graph.initializer}
    halves = {name for name, each in held.items() if each.data_type == KINDS[kind]}
    fed = inputs(original)

    assert {"conv1_w_stored", "conv2_w_stored", "fc_w_stored"} == halves
    assert (
        len(content)
        < len(to_bytes(smaller)) - sum(2 * np.prod(list(held[name].dims), dtype=int) for name in halves) + 600
    )  # nodes and names
    np.testing.assert_array_equal(Session(content).run(fed)[0], Session(to_bytes(final)).run(fed)[0])
    again = load(content)
    assert [value.dtype for value in again.graph.initializers.values()] == [ir.DataType.FLOAT] * len(held)


def test_weights_that_no_longer_fit_stay_as_they_are() -> None:
    """A weight beyond the range of float16 would become infinite: it is written as float32."""
    original = load(stored_in_half("FLOAT16"))
    changed = original.clone()
    value = changed.graph.initializers["fc_w"]
    value.const_value = ir.tensor(np.full((4, 12), 1e6, np.float32), name="fc_w")
    held = {each.name for each in onnx.load_from_string(write(changed, original, {})).graph.initializer}

    assert "fc_w" in held
    assert "conv1_w_stored" in held
