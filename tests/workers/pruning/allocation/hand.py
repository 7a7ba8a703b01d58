"""A cost model small enough to work out by hand, and its groups."""

from workers.pruning.types import CostModel, Group, Grouping, Length, Term


def length(group: int, positions: int = 1, fixed: int = 0) -> Length:
    """An axis that holds one group."""
    return Length(fixed=fixed, parts=((group, positions),))


def term(coefficient: float, *lengths: Length) -> Term:
    """A product."""
    return Term(coefficient=coefficient, lengths=lengths)


def chain(*widths: int) -> CostModel:
    """Layers in a row: 3 inputs, then each width, then 2 outputs; one MAC and one parameter of 4 bytes per weight."""
    terms = [term(3.0, length(0))]
    terms += [term(1.0, length(index), length(index + 1)) for index in range(len(widths) - 1)]
    terms.append(term(2.0, length(len(widths) - 1)))
    sizes = [Term(coefficient=4 * each.coefficient, lengths=each.lengths) for each in terms]
    peak = tuple(
        (term(4.0, length(a)), term(4.0, length(b))) for a, b in zip(range(len(widths) - 1), range(1, 99), strict=False)
    )
    return CostModel(
        widths=widths,
        macs=tuple(terms),
        params=tuple(terms),
        size_bytes=(term(100.0), *sizes),
        peak=peak,
    )


def grouping(*widths: int) -> Grouping:
    """Groups of these widths, without any tensors."""
    groups, start = [], 0
    for index, width in enumerate(widths):
        groups.append(Group(id=f"g{index}", start=start, stop=start + width, producers=(), consumers=()))
        start += width
    return Grouping(num_units=start, groups=tuple(groups), initializer_axes=(), value_axes={}, frozen=())
