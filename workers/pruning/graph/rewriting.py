"""One node that takes another form: what is known around it, and what takes its place."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir

from workers.pruning.graph.values import fresh_name
from workers.pruning.types import AnyArray

Setting = int | float | str | Sequence[int]
NOTHING_SET: Final[Mapping[str, Setting]] = {}

_FIRST_OPSET_OF_LAYER_NORM: Final = 17
FLOATS: Final = frozenset(
    {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
)


def is_standard(op_type: str, opset: int) -> bool:
    """Whether the standard has an operator at this version."""
    try:
        onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return False
    return True


class NotKnownYet(Exception):
    """A rewrite needs a rank, a type or an operator that is not there, or does not cover this setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is known of the values of a file."""

    opset: int
    types: Mapping[str, int]
    shapes: Mapping[str, tuple[int | str | None, ...]]  # lengths, or what the file calls them
    used: Container[str]  # by other nodes, or as outputs
    only_type: int | None  # of all floating-point weights and inputs, where they have the same


@dataclass(slots=True, kw_only=True)
class Place:
    """One node that is being rewritten: what takes its place is collected here."""

    node: onnx.NodeProto
    known: Surroundings
    taken: set[str]  # names of values
    named: set[str]  # names of nodes
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def given(self, index: int) -> str:
        """Name of an input, empty where it is left out."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def wanted(self, index: int) -> str:
        """Name of an output, empty where it is left out or nobody reads it."""
        name = self.node.output[index] if index < len(self.node.output) else ""
        return name if name in self.known.used else ""

    def only(self, *outputs: int) -> None:
        """Leave the node as it is if it gives more than these outputs."""
        if any(self.wanted(index) and index not in outputs for index in range(len(self.node.output))):
            raise NotKnownYet

    def without(self, *inputs: int) -> None:
        """Leave the node as it is if one of these inputs is fed."""
        if any(self.given(index) for index in inputs):
            raise NotKnownYet

    def setting(self, name: str, default: float) -> float:
        """Give a number among the attributes."""
        found = next((each for each in self.node.attribute if each.name == name), None)
        if found is None:
            return default
        return found.f if found.type == onnx.AttributeProto.FLOAT else float(found.i)

    def text(self, name: str) -> str:
        """Give a text among the attributes, empty where it is not set."""
        found = next((each for each in self.node.attribute if each.name == name), None)
        return "" if found is None else found.s.decode()

    def elem_type(self) -> int:
        """Give the type of the numbers that the node computes with."""
        found = (self.known.types.get(name) for name in (*self.node.output[:1], *self.node.input) if name)
        floats = [kind for kind in found if kind in FLOATS]
        kind = floats[0] if floats else self.known.only_type
        if kind is None:
            raise NotKnownYet
        return kind

    def rank(self, name: str) -> int:
        """Give the number of axes of a value."""
        return len(self.axes(name))

    def axes(self, name: str) -> tuple[int | str | None, ...]:
        """Give the lengths of a value, or their names."""
        if name not in self.known.shapes:
            raise NotKnownYet
        return self.known.shapes[name]

    def length(self, name: str, axis: int) -> int:
        """Give a length that has to be a number."""
        found = self.axes(name)[axis]
        if not isinstance(found, int):
            raise NotKnownYet
        return found

    def integer_list(self, name: str) -> list[int]:
        """Give a list of integers among the attributes, empty where it is not set."""
        return next((list(each.ints) for each in self.node.attribute if each.name == name), [])

    def add(
        self,
        op_type: str,
        *inputs: str,
        to: str = "",
        main: bool = False,
        settings: Mapping[str, Setting] = NOTHING_SET,
        copied: Sequence[str] = (),
    ) -> str:
        """Add a node and give the name of what it gives.

        Args:
            op_type: A standard operator.
            inputs: Names; empty ones are left out.
            to: What it gives; a name of its own where empty.
            main: Keep the name of the node that is rewritten.
            settings: Its attributes.
            copied: Attributes to take over where the rewritten node sets them.
        """
        if not is_standard(op_type, self.known.opset):
            raise NotKnownYet
        output = to or self._fresh(op_type)
        name = self.node.name if main or not self.node.name else fresh_name(f"{self.node.name}_{op_type}", self.named)
        values = [ir.Value(name=value) if value else None for value in _trimmed(inputs)]
        made = ir.node(op_type, values, settings, outputs=[ir.Value(name=output)], name=name)
        proto = ir.serde.serialize_node(made)
        proto.attribute.extend(each for each in self.node.attribute if each.name in copied)
        self.nodes.append(proto)
        return output

    def number(self, value: float) -> str:
        """Add a constant of one number, of the type that the node computes with."""
        return self._constant(np.asarray(value, ir.DataType(self.elem_type()).numpy()))

    def normalise(self, source: str, scale: str, shift: str, to: str, *, epsilon: float = 1e-5) -> None:
        """Add a LayerNormalization that gives `to`, in its parts where the opset has none."""
        epsilon, axis = self.setting("epsilon", epsilon), int(self.setting("axis", -1))
        if self.known.opset >= _FIRST_OPSET_OF_LAYER_NORM:
            settings: Mapping[str, Setting] = {"axis": axis, "epsilon": epsilon}
            self.add("LayerNormalization", source, scale, shift, to=to, main=True, settings=settings)
            return
        if axis != -1 and axis != self.rank(source) - 1:
            raise NotKnownYet
        centred = self.add("Sub", source, self.add("ReduceMean", source, settings={"axes": [-1]}))
        variance = self.add("ReduceMean", self.add("Mul", centred, centred), settings={"axes": [-1]})
        deviation = self.add("Sqrt", self.add("Add", variance, self.number(epsilon)))
        ratio = self.add("Div", centred, deviation, main=True)
        scaled = self.add("Mul", ratio, scale, to="" if shift else to)
        if shift:
            self.add("Add", scaled, shift, to=to)

    def integers(self, *values: int) -> str:
        """Add a constant of whole numbers."""
        return self._constant(np.asarray(values, np.int64))

    def integer(self, value: int) -> str:
        """Add a constant of one whole number, without axes."""
        return self._constant(np.asarray(value, np.int64))

    def _constant(self, array: AnyArray) -> str:
        name = self._fresh("constant")
        self.constants.append(ir.serde.serialize_tensor(ir.tensor(array, name=name)))
        return name

    def _fresh(self, what: str) -> str:
        return fresh_name(f"{next(name for name in self.node.output if name)}_{what}", self.taken)


def _trimmed(inputs: tuple[str, ...]) -> list[str]:
    """Inputs without the empty ones at the end."""
    kept = list(inputs)
    while kept and not kept[-1]:
        kept.pop()
    return kept
