"""What the outputs of a graph mean: class scores that can be distilled and counted, or something else."""

from enum import StrEnum
from typing import Final

import onnx_ir as ir

from workers.pruning.errors import InvalidGraph
from workers.pruning.graph.values import integer, opset

DECLARED: Final = "espalier.head"  # key of the metadata
INNER: Final = "espalier.inner"  # the same, for outputs that stand for what a node reads which no gradient passes
CARRIED: Final = "espalier.carried"  # and for outputs from which nothing is learned
CLASSIFIER: Final = "classifier"
_MATRIX: Final = 2
_FIRST_OPSET_WITH_ONE_SOFTMAX_AXIS: Final = 13


class Head(StrEnum):
    """What the outputs of a network mean."""

    LOGITS = "logits"  # one (batch, classes) output before softmax; axes of length 1 may follow
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


def declare(graph: ir.Model, meaning: str) -> None:
    """Note in a network, in place, what its output means: "classifier" or "other"; "auto" leaves it to `find`.

    The note is part of the file's metadata and stays with its cuts.

    Raises:
        InvalidGraph: it is to be a classifier and does not give one score for each of several classes.
    """
    if meaning == "auto":
        return
    graph.metadata_props[DECLARED] = meaning
    if meaning == CLASSIFIER and not find(graph).is_classification:
        raise InvalidGraph(
            "The network cannot be a classifier",
            actual=[f"{value.name!r} {list(value.shape or ())}" for value in graph.graph.outputs],
            allowed="one floating-point output of shape (batch, classes)",
            advice="Leave `head` out.",
        )


def find(graph: ir.Model) -> Head:
    """Tell classification from the rest: one floating-point output of shape (batch, classes), two classes or more.

    Axes of length 1 may follow, as where a convolution and pooling end the network.
    An embedding has that shape too and is taken for logits; distilling it by its centred squared error is still
    sensible. What the file declares comes first; see `declare`.
    """
    declared = graph.metadata_props.get(DECLARED)
    if declared not in {None, CLASSIFIER}:
        return Head.OTHER
    added = added_outputs(graph)
    outputs = [value for value in graph.graph.outputs if value.name not in added]
    if len(outputs) != 1:
        return Head.OTHER
    output = outputs[0]
    shape = output.shape
    if output.dtype is None or not output.dtype.is_floating_point() or shape is None or len(shape) < _MATRIX:
        return Head.OTHER
    num_classes = shape[1]
    producer = output.producer()
    if any(length != 1 for length in list(shape)[_MATRIX:]) or (
        producer is not None and not _over_classes(graph, producer)
    ):
        return Head.OTHER
    if (
        not isinstance(num_classes, int)
        or num_classes < 2
        or producer is None
        or (producer.op_type in _NOT_LOGITS and declared is None)
    ):
        return Head.OTHER
    return _BY_LAST_OPERATOR.get(producer.op_type, Head.LOGITS)


def inner_outputs(graph: ir.Model) -> frozenset[str]:
    """Names of the outputs that stand for what a node reads which no gradient passes; see `trunk`."""
    return _listed(graph, INNER)


def added_outputs(graph: ir.Model) -> frozenset[str]:
    """Names of the outputs that the network itself does not have."""
    return _listed(graph, INNER) | _listed(graph, CARRIED)


def carried_outputs(graph: ir.Model) -> frozenset[str]:
    """Names of the outputs from which nothing is learned."""
    return _listed(graph, CARRIED)


def _listed(graph: ir.Model, key: str) -> frozenset[str]:
    return frozenset(name for name in graph.metadata_props.get(key, "").split("\n") if name)


def _over_classes(graph: ir.Model, producer: ir.Node) -> bool:
    """Whether a final softmax runs over axis 1; anything else passes."""
    if producer.op_type not in _BY_LAST_OPERATOR:
        return True
    rank = len(producer.outputs[0].shape or ())
    modern = opset(graph) >= _FIRST_OPSET_WITH_ONE_SOFTMAX_AXIS
    return integer(producer, "axis", -1 if modern else 1) % max(rank, 1) == 1
