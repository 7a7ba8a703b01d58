"""How many samples a step may take: as many as the memory budget holds."""

from math import sqrt
from typing import Final

from workers.pruning.errors import OutOfMemory
from workers.pruning.training.memory import MemoryModel

MULTIPLE: Final = 8
LARGEST: Final = 1024
DATA_SHARE: Final = 0.1  # of the training samples at most in one step
RATE_STEP: Final = 1.5  # the rate grows by no more at a time


def largest(model: MemoryModel, budget: int, multiple: int = MULTIPLE) -> int:
    """The largest multiple with M(k, B) within the budget; 0 where there is none."""
    room = budget - model.static_bytes
    return 0 if room < model.least_bytes else max(0, room // model.sample_bytes // multiple * multiple)


def first(model: MemoryModel, budget: int, *, wanted: int, num_samples: int) -> int:
    """The batch that training begins with: the wanted one, or the largest that fits.

    Raises:
        OutOfMemory: not even eight samples fit; the message states what they need.
    """
    multiple = min(MULTIPLE, num_samples)
    fitting = min(wanted, largest(model, budget, multiple)) // multiple * multiple
    if fitting < multiple:
        raise OutOfMemory(
            f"A step of {multiple} samples does not fit into the memory budget",
            where="options.memory_budget_bytes",
            actual=budget,
            allowed=f"{model.at(multiple)} or more",
            advice="Raise the budget, or leave it out to get what the usual batch needs.",
        )
    return fitting


def grown(model: MemoryModel, budget: int, *, now: int, num_samples: int) -> int:
    """The batch after memory was freed: what fits, at most doubled, at most 1024 and a tenth of the data.

    Source: derivation, B = floor_8((M_max - P(k) (2 + s) 4 - c0) / A(k)). It never becomes
    smaller: pruning only frees memory.
    """
    multiple = min(MULTIPLE, num_samples)
    cap = min(LARGEST, int(DATA_SHARE * num_samples)) // multiple * multiple
    return max(now, min(largest(model, budget, multiple), 2 * now, cap))


def rate_factor(before: int, after: int) -> float:
    """What the learning rate is multiplied by when the batch grows: the square root of the ratio, at most 1.5."""
    return min(sqrt(after / before), RATE_STEP)
