"""The ONNX graph as a differentiable torch module: a plain interpreter over a compiled list of steps."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir
import torch
from torch import Tensor

from workers.pruning.errors import UnsupportedOperator
from workers.pruning.graph.foreign import Foreign, fed
from workers.pruning.graph.ops import OPERATORS
from workers.pruning.graph.ops.site import Kernel, Site, to_tensor
from workers.pruning.graph.values import attributes, constant, is_float, opset, reads
from workers.pruning.graph.weights import is_parameter, replace_weights

Edits = Mapping[tuple[str, int], Callable[[Tensor], Tensor]]
Watch = Mapping[str, Callable[[Sequence[Tensor | None], Sequence[Tensor]], None]]
_STATE_INPUTS: Final = {"BatchNormalization": (3, 4)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One node, ready to run. Slots number the values; `frees` are not read by any later step."""

    node: str
    kernel: Kernel
    modal: bool
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    frees: tuple[int, ...]


class GraphModule(torch.nn.Module):
    """A graph that can be run, differentiated, trained and written back.

    Float initializers are torch parameters where they are trained (see graph.weights.is_parameter) and buffers where
    they are constants or running statistics; integers stay on the CPU, where shape arithmetic runs. Half precision is
    computed in float32. `train()` and `eval()` switch BatchNormalization and Dropout. A node that torch has no function
    for is run by ONNX Runtime; no gradient passes it (`foreign_nodes`).

    Raises:
        UnsupportedOperator: a node that neither torch nor ONNX Runtime can run; named in the message.
    """

    def __init__(self, graph: ir.Model, *, trainable: bool = True) -> None:
        super().__init__()
        compiler = _Compiler(graph)
        self._steps = tuple(compiler.steps())
        self._num_slots = len(compiler.slots)
        self._inputs = tuple(compiler.slots[value] for value in graph.graph.inputs)
        self._input_types = tuple(_float_type(value) for value in graph.graph.inputs)
        self._outputs = tuple(compiler.slots[value] for value in graph.graph.outputs)
        self._fixed: list[tuple[int, Tensor]] = []
        self._parameter_slots: list[tuple[int, str]] = []
        self._buffer_slots: list[tuple[int, str]] = []
        self._keys: dict[str, str] = {}
        for number, (name, value) in enumerate(graph.graph.initializers.items()):
            if value in compiler.slots:
                self._hold(f"w{number}", name, value, compiler.slots[value], trainable=trainable)
        self._by_name = {step.node: step for step in reversed(self._steps)}
        self._slot_keys = dict((*self._parameter_slots, *self._buffer_slots))

    @property
    def initializers(self) -> Mapping[str, Tensor]:
        """Parameter or buffer of every float initializer, by its name in the graph."""
        return _Held(self._keys, self._tensor)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the graph; outputs in the order of the graph's outputs."""
        return self.run(inputs)

    def run(
        self, inputs: Sequence[Tensor], *, edits: Edits | None = None, watch: Watch | None = None
    ) -> tuple[Tensor, ...]:
        """Run the graph with functions put before inputs of nodes and with observers behind nodes.

        Args:
            inputs: One tensor for each graph input, in order.
            edits: (node name, input index) -> function applied to that input just before the node.
            watch: Node name -> function called with the inputs (after edits) and the outputs of the node.

        Raises:
            ValueError: the number of inputs is wrong, or an edit or watch names something that is not in the graph.
        """
        if len(inputs) != len(self._inputs):
            raise ValueError(f"the graph has {len(self._inputs)} inputs, {len(inputs)} were given")
        edits, watch = edits or {}, watch or {}
        if edits or watch:
            self._check_hooks(edits, watch)
        values: list[Tensor | None] = [None] * self._num_slots
        self._fill(values, inputs)
        for step in self._steps:
            arguments = [None if slot is None else values[slot] for slot in step.inputs]
            if edits:
                _edit(step.node, arguments, edits)
            result = step.kernel(*arguments, training=self.training) if step.modal else step.kernel(*arguments)
            outputs = result if isinstance(result, tuple) else (result,)
            if step.node in watch:
                watch[step.node](arguments, outputs)
            for slot, output in zip(step.outputs, outputs, strict=False):
                values[slot] = output
            for slot in step.frees:
                values[slot] = None
        return tuple(self._present(values[slot]) for slot in self._outputs)

    def step(self, node: str, computed: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        """Run one node by itself.

        Args:
            node: Its name.
            computed: What it reads (`values.reads`) in order; None for an initializer, which is filled in, and for an
                omitted input.

        Raises:
            ValueError: there is no such node.
        """
        found = self._by_name.get(node)
        if found is None:
            raise ValueError(f"there is no node {node!r}")
        arguments = [
            given if given is not None or slot is None else self._stored(slot)
            for given, slot in zip(computed, found.inputs, strict=True)
        ]
        result = found.kernel(*arguments, training=self.training) if found.modal else found.kernel(*arguments)
        return result if isinstance(result, tuple) else (result,)

    def write_back(self, graph: ir.Model, *, without: Container[str] = ()) -> ir.Model:
        """Return a new graph with this module's numbers, but for those named, in the types that `graph` has."""
        held = {
            name: tensor.detach().to("cpu").contiguous().numpy()
            for name, tensor in self.initializers.items()
            if name in graph.graph.initializers and name not in without
        }
        return replace_weights(graph, held)

    def _hold(self, key: str, name: str, value: ir.Value, slot: int, *, trainable: bool) -> None:
        array = constant(value)
        if array is None or array.dtype.kind in "OSU":
            raise UnsupportedOperator("A constant is not made of numbers", where=f"initializer {name!r}")
        tensor = to_tensor(array)
        if not is_float(value):
            self._fixed.append((slot, tensor))
            return
        self._keys[name] = key
        if is_parameter(value) and not _is_state(value):
            self.register_parameter(key, torch.nn.Parameter(tensor, requires_grad=trainable))
            self._parameter_slots.append((slot, key))
        else:
            self.register_buffer(key, tensor)
            self._buffer_slots.append((slot, key))

    def _fill(self, values: list[Tensor | None], inputs: Sequence[Tensor]) -> None:
        for slot, dtype, tensor in zip(self._inputs, self._input_types, inputs, strict=True):
            values[slot] = tensor if dtype is None or tensor.dtype == dtype else tensor.to(dtype)
        self._fill_initializers(values)

    def _fill_initializers(self, values: list[Tensor | None]) -> None:
        for slot, tensor in self._fixed:
            values[slot] = tensor
        for slot, key in self._parameter_slots:
            values[slot] = self._parameters[key]
        for slot, key in self._buffer_slots:
            values[slot] = self._buffers[key]

    def _stored(self, slot: int) -> Tensor | None:
        """An initializer by its slot; None for what is none."""
        if slot in self._slot_keys:
            return self._tensor(self._slot_keys[slot])
        return next((tensor for fixed, tensor in self._fixed if fixed == slot), None)

    def _tensor(self, key: str) -> Tensor:
        held = self._parameters[key] if key in self._parameters else self._buffers[key]
        return self._present(held)

    def _check_hooks(self, edits: Edits, watch: Watch) -> None:
        known = {step.node: len(step.inputs) for step in self._steps}
        for node, index in edits:
            if not 0 <= index < known.get(node, 0):
                raise ValueError(f"there is no input {index} of a node {node!r}")
        for node in watch:
            if node not in known:
                raise ValueError(f"there is no node {node!r}")

    @staticmethod
    def _present(value: Tensor | None) -> Tensor:
        if value is None:
            raise RuntimeError("a value was freed before its last use")
        return value


class _Held(Mapping[str, Tensor]):
    """Tensors by the names of their initializers, looked up when they are asked for."""

    def __init__(self, keys: Mapping[str, str], tensor: Callable[[str], Tensor]) -> None:
        self._keys, self._tensor = keys, tensor

    def __getitem__(self, name: str) -> Tensor:
        return self._tensor(self._keys[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class _Compiler:
    """Numbers the values of a graph and turns its nodes into steps."""

    def __init__(self, graph: ir.Model) -> None:
        self.model, self.graph = graph, graph.graph
        self.opset = opset(graph)
        self.slots: dict[ir.Value, int] = {}
        for value in (*self.graph.inputs, *self.graph.outputs):
            self._slot(value)
        self.kept = set(self.slots.values())

    def steps(self) -> Iterator[_Step]:
        nodes = list(self.graph)
        last = {value: number for number, node in enumerate(nodes) for value in reads(node) if value is not None}
        for number, node in enumerate(nodes):
            kernel, modal = self._kernel(node)
            values = fed(node) if isinstance(kernel, Foreign) else node.inputs
            freed = {value for value in (*values, *node.outputs) if value is not None}
            yield _Step(
                node=node.name or "",
                kernel=kernel,
                modal=modal,
                inputs=tuple(None if value is None else self._slot(value) for value in values),
                outputs=tuple(self._slot(value) for value in node.outputs),
                frees=tuple(
                    sorted(
                        self._slot(value)
                        for value in freed
                        if last.get(value, number) == number
                        and self._slot(value) not in self.kept
                        and value.producer() is not None
                    )
                ),
            )

    def _kernel(self, node: ir.Node) -> tuple[Kernel, bool]:
        """The function of a node, and whether it differs in training."""
        found = _in_torch(node, self.opset)
        return (Foreign(self.model, node), False) if found is None else found

    def _slot(self, value: ir.Value) -> int:
        return self.slots.setdefault(value, len(self.slots))


def foreign_nodes(graph: ir.Model) -> frozenset[str]:
    """Names of the nodes that torch has no function for."""
    version = opset(graph)
    return frozenset(node.name or "" for node in graph.graph if _in_torch(node, version) is None)


def _in_torch(node: ir.Node, version: int) -> tuple[Kernel, bool] | None:
    """The torch function of a node and whether it differs in training; None where there is none."""
    operator = OPERATORS.get(node.op_type)
    if operator is None or node.domain not in {"", "ai.onnx"}:
        return None
    try:
        return operator.build(_site(node, version)), operator.modal
    except UnsupportedOperator:
        return None


def _site(node: ir.Node, version: int) -> Site:
    used = [index for index, value in enumerate(node.outputs) if value.uses() or value.is_graph_output()]
    return Site(
        name=node.name or "",
        op_type=node.op_type,
        opset=version,
        attributes=attributes(node),
        constants=tuple(constant(value) for value in node.inputs),
        given=tuple(value is not None for value in node.inputs),
        num_outputs=len(node.outputs) if node.op_type == "Split" else max(used, default=0) + 1,
    )


def _edit(node: str, arguments: list[Tensor | None], edits: Edits) -> None:
    for index, argument in enumerate(arguments):
        function = edits.get((node, index))
        if function is not None and argument is not None:
            arguments[index] = function(argument)


def _is_state(value: ir.Value) -> bool:
    return any(use.idx in _STATE_INPUTS.get(use.node.op_type, ()) for use in value.uses())


def _float_type(value: ir.Value) -> torch.dtype | None:
    if not is_float(value):
        return None
    return torch.float64 if value.dtype == ir.DataType.DOUBLE else torch.float32
