"""Steps in which widths shrink, so that kernels of the runtime stay fast."""

from math import gcd

from workers.pruning.types import CostModel

# ONNX Runtime on CPU works on blocks of channels: a width that is no multiple of the block makes a convolution fall out
# of the blocked layout, and the network may become slower than before. Multiples of 16 serve best, 8 well; narrow
# tensors take 4, since a step of 16 would leave them no choice.
_STEPS = ((64, 16), (24, 8), (0, 4))


def steps_for(model: CostModel, round_to: int | None) -> tuple[int, ...]:
    """Units that each group gives up at a time.

    `round_to` counts channels; a unit that holds several channels of its narrowest tensor counts for all of them. None
    chooses per group by the narrowest tensor that its channels lie in: 16 from 64 channels on, 8 from 24, else 4.
    """
    narrowest: list[tuple[int, int]] = [(width, 1) for width in model.widths]
    seen: list[list[tuple[int, int]]] = [[] for _ in model.widths]
    for term in model.macs:
        for length in term.lengths:
            whole = length.fixed + sum(positions * model.widths[group] for group, positions in length.parts)
            for group, positions in length.parts:
                seen[group].append((whole, positions))
    for group, tensors in enumerate(seen):
        if tensors:
            narrowest[group] = min(tensors)
    return tuple(
        channels_step(whole, round_to) // gcd(channels_step(whole, round_to), positions)
        for whole, positions in narrowest
    )


def channels_step(width: int, round_to: int | None) -> int:
    """Step in channels of a tensor of this width."""
    if round_to is not None:
        return max(1, round_to)
    return next(step for least, step in _STEPS if width >= least)
