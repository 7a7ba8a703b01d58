"""Rows of a latency table: one operator with everything that its time depends on, as text and back."""

from dataclasses import dataclass
from math import prod
from typing import Final

Shape = tuple[int, ...]

PRODUCTS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
COPIES: Final = 4
_COPIED_WEIGHTS: Final = 1 << 17  # elements; several copies of more would not fit where the layer itself does
_COPIED_MACS: Final = 1 << 24
_DENSE_RANK: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """What an operator reads: computed data, stored weights, a small constant by its values, or nothing."""

    kind: str  # "data", "weight", "value", "absent"
    shape: Shape = ()
    text: str = ""  # of a value: "int64:1,1,2,2"

    def __str__(self) -> str:
        """Give the operand as it stands in a key."""
        if self.kind == "absent":
            return "-"
        if self.kind == "value":
            return f"={self.text}"
        return ("w" if self.kind == "weight" else "") + shape_text(self.shape)

    @staticmethod
    def parse(text: str) -> "Operand":
        """Read what `str` wrote."""
        if text == "-":
            return Operand(kind="absent")
        if text.startswith("="):
            return Operand(kind="value", text=text[1:])
        if text.startswith("w"):
            return Operand(kind="weight", shape=_shape(text[1:]))
        return Operand(kind="data", shape=_shape(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An operator at fixed shapes, with what the runtime computes in the same kernel."""

    operator: str
    fused: tuple[str, ...] = ()  # in order: Add, Relu
    dtype: str = "float32"
    operands: tuple[Operand, ...]
    output: Shape
    attributes: tuple[tuple[str, str], ...] = ()  # sorted; lists as "1,1"
    copies: int = 1  # of the operator in the graph that is timed

    @property
    def key(self) -> str:
        """The row as text, the same for equal rows on every machine."""
        name = "+".join((self.operator, *self.fused))
        operands = ";".join(str(operand) for operand in self.operands)
        attributes = "".join(f" {name}={value}" for name, value in self.attributes)
        return f"{name} {self.dtype} {operands}->{shape_text(self.output)}{attributes} *{self.copies}"

    @staticmethod
    def parse(key: str) -> "Row":
        """Read a key.

        Raises:
            ValueError: it is none.
        """
        name, dtype, shapes, *rest = key.split(" ")
        operator, *fused = name.split("+")
        operands, output = shapes.split("->")
        *pairs, copies = rest
        attributes = tuple((left, right) for left, _, right in (pair.partition("=") for pair in pairs))
        return Row(
            operator=operator,
            fused=tuple(fused),
            dtype=dtype,
            operands=tuple(Operand.parse(text) for text in operands.split(";")),
            output=_shape(output),
            attributes=attributes,
            copies=int(copies.removeprefix("*")),
        )

    @property
    def data(self) -> Operand:
        """The first operand that is computed."""
        return next((operand for operand in self.operands if operand.kind == "data"), self.operands[0])

    @property
    def weight(self) -> Operand | None:
        """The first operand that is stored."""
        return next((operand for operand in self.operands if operand.kind == "weight"), None)

    @property
    def groups(self) -> int:
        """Groups of a convolution: channels of the input over those that one filter reads."""
        if self.weight is None or self.operator not in {"Conv", "ConvTranspose"}:
            return 1
        if self.operator == "ConvTranspose":
            return max(1, self.output[1] // self.weight.shape[1])
        return max(1, self.data.shape[1] // self.weight.shape[1])

    @property
    def kind(self) -> str:
        """The class of operators that shares a correction."""
        if self.operator in {"Conv", "ConvTranspose"} and self.weight is not None:
            return convolution_kind(grouped=self.groups > 1, taps=prod(self.weight.shape[2:]))
        return "product" if self.operator in PRODUCTS else "other"

    @property
    def macs(self) -> int:
        """Multiply-adds of one copy."""
        weight = self.weight
        if self.operator == "Conv" and weight is not None:
            return prod(self.output) * prod(weight.shape[1:])
        if self.operator == "ConvTranspose" and weight is not None:
            return prod(self.data.shape) * prod(weight.shape[1:])
        if self.operator in PRODUCTS:
            transposed = self.operator == "Gemm" and ("transA", "1") in self.attributes
            return prod(self.output) * self.data.shape[0 if transposed else -1]
        return 0

    @property
    def num_read(self) -> int:
        """Elements of computed data that one copy reads; what is added to the result is one of them."""
        return sum(prod(o.shape) for o in self.operands if o.kind == "data") + self.num_written * ("Add" in self.fused)

    @property
    def num_written(self) -> int:
        """Elements that one copy writes."""
        return prod(self.output)

    @property
    def num_weights(self) -> int:
        """Stored elements that one copy reads."""
        return sum(prod(operand.shape) for operand in self.operands if operand.kind == "weight")


def convolution_kind(*, grouped: bool, taps: int) -> str:
    """Name the kind of a convolution: kernels of their own compute these."""
    if grouped:
        return "grouped convolution"
    return "convolution" if taps > 1 else "pointwise convolution"


def fitting_copies(operator: str, macs: int, num_weights: int) -> int:
    """Copies in the graph that is timed: several of what is short, so that calling the runtime weighs little."""
    if operator in PRODUCTS and (num_weights > _COPIED_WEIGHTS or macs > _COPIED_MACS):
        return 1
    return COPIES


def shape_text(shape: Shape) -> str:
    """Give a shape as 1x16x32x32; the shape of a scalar as s."""
    return "x".join(str(length) for length in shape) or "s"


def _shape(text: str) -> Shape:
    return () if text == "s" else tuple(int(length) for length in text.split("x"))
