"""What the outputs of a graph mean: class scores that can be distilled and counted, or something else."""

from enum import StrEnum

import onnx_ir as ir


class Head(StrEnum):
    """What the outputs of a network mean."""

    LOGITS = "logits"  # one (batch, classes) output before softmax
    PROBABILITIES = "probabilities"  # the same behind a softmax
    LOG_PROBABILITIES = "log_probabilities"  # the same behind a log-softmax
    OTHER = "other"  # anything else: several outputs, maps, regression, embeddings

    @property
    def is_classification(self) -> bool:
        """Whether the output holds one score per class."""
        return self is not Head.OTHER


_BY_LAST_OPERATOR = {"Softmax": Head.PROBABILITIES, "LogSoftmax": Head.LOG_PROBABILITIES}
# Behind these a two-dimensional output is a bounded or gated figure per column, not one score per class.
_NOT_LOGITS = frozenset({"Sigmoid", "Tanh", "HardSigmoid", "Relu", "Clip"})


def find(graph: ir.Model) -> Head:
    """Tell classification from the rest: one floating-point output of shape (batch, classes), two classes or more.

    An embedding has that shape too and is taken for logits; distilling it by its centred squared error is still
    sensible.
    """
    outputs = graph.graph.outputs
    if len(outputs) != 1:
        return Head.OTHER
    output = outputs[0]
    if output.dtype is None or not output.dtype.is_floating_point() or output.shape is None or len(output.shape) != 2:
        return Head.OTHER
    num_classes = output.shape[1]
    producer = output.producer()
    if not isinstance(num_classes, int) or num_classes < 2 or producer is None or producer.op_type in _NOT_LOGITS:
        return Head.OTHER
    return _BY_LAST_OPERATOR.get(producer.op_type, Head.LOGITS)
