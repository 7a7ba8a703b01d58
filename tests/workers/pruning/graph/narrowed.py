"""Networks whose every float32 is turned into a narrower type."""

import onnx_ir as ir


def narrowed(graph: ir.Model, kind: ir.DataType = ir.DataType.BFLOAT16) -> ir.Model:
    """Round every weight to `kind` and declare every value so, as exports of half-precision modules do."""
    result = graph.clone()
    values = [*result.graph.inputs, *(value for node in result.graph for value in node.outputs)]
    for value in (*values, *result.graph.initializers.values()):
        if value.dtype == ir.DataType.FLOAT:
            value.type = ir.TensorType(kind)
            if value.const_value is not None:
                array = value.const_value.numpy().astype(kind.numpy())
                value.const_value = ir.Tensor(array, dtype=kind, name=value.name)
    return result
