"""Steps in which widths shrink, so that kernels of the runtime stay fast."""

from collections.abc import Callable
from math import ceil, gcd
from typing import Final

from workers.pruning.types import CostModel

# ONNX Runtime on CPU works on blocks of 16 channels (8 without AVX-512): a width that is no multiple of 4 makes a
# convolution fall out of the blocked layout, and one below a block pays for the whole block. Steps of 16 serve best;
# tensors of 24 to 63 channels take 8 but keep a block; narrower ones take 4, since more would leave them no choice.
_STEPS: Final = ((64, 16), (24, 8), (0, 4))
_BLOCK: Final = 16
_WIDE_ENOUGH: Final = 24

# Batch 1 reads every parameter once. One core does about 95 GMAC/s and reads 10 GB/s, so that reading a parameter takes
# as long as 38 MACs (measured on VGG-16, AVX-512); savings are counted so where the runtime's preference is asked for.
MACS_PER_PARAM: Final = 32.0


def steps_for(model: CostModel, round_to: int | None) -> tuple[int, ...]:
    """Units that each group gives up at a time.

    `round_to` counts channels; a unit that holds several channels of its narrowest tensor counts for all of them. None
    chooses per group by the narrowest tensor that its channels lie in: 16 from 64 channels on, 8 from 24, else 4.
    """

    def step(width: int) -> int:
        return max(1, round_to) if round_to is not None else next(step for least, step in _STEPS if width >= least)

    return _per_group(model, lambda width, positions: step(width) // gcd(step(width), positions))


def blocks_for(model: CostModel, round_to: int | None) -> tuple[int, ...]:
    """Fewest units with which each group still fills a block of the runtime; 1 where `round_to` is given."""

    def least(width: int, positions: int) -> int:
        return ceil(_BLOCK / positions) if round_to is None and width >= _WIDE_ENOUGH else 1

    return _per_group(model, least)


def _per_group(model: CostModel, figure: Callable[[int, int], int]) -> tuple[int, ...]:
    """A figure of the narrowest tensor of every group: its channels, and those of one unit in it; 1 for whole heads."""
    tensors: list[list[tuple[int, int]]] = [[] for _ in model.widths]
    for term in model.macs:
        for length in term.lengths:
            whole = length.fixed + sum(positions * model.widths[group] for group, positions in length.parts)
            for group, positions in length.parts:
                tensors[group].append((whole, positions))
    return tuple(
        1 if group in model.single else figure(*min(found, default=(width, 1)))
        for group, (found, width) in enumerate(zip(tensors, model.widths, strict=True))
    )
