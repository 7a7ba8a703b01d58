"""One file per method; METHODS holds them by the name that a job gives."""

from collections.abc import Callable, Mapping
from typing import Final

from workers.pruning.errors import LatencyNotAimedAt
from workers.pruning.methods.auto import auto
from workers.pruning.methods.baselines import magnitude, random
from workers.pruning.methods.dynhp import dynhp
from workers.pruning.methods.easiedge import easiedge
from workers.pruning.methods.lcp import lcp
from workers.pruning.methods.task import Outcome, Task
from workers.pruning.methods.taylor import taylor

# Methods that rank once and allocate from that; the others decide in rounds, of which a device would time every one.
AIM_AT_LATENCY: Final = frozenset({"auto", "easiedge", "lcp", "magnitude", "random"})

METHODS: Final[Mapping[str, Callable[..., Outcome]]] = {
    "auto": auto,
    "dynhp": dynhp,
    "easiedge": easiedge,
    "lcp": lcp,
    "magnitude": magnitude,
    "random": random,
    "taylor": taylor,
}


def require_aim(name: str, task: Task) -> None:
    """Refuse a latency as the target of a method that cannot aim at one.

    Raises:
        LatencyNotAimedAt: says which methods can.
    """
    if task.latency_budgets and name not in AIM_AT_LATENCY:
        raise LatencyNotAimedAt(
            "The method decides in rounds and cannot aim at a latency",
            where="method",
            actual=name,
            allowed=", ".join(sorted(AIM_AT_LATENCY)),
            advice="Give it a target in flops, and read the latency from the result.",
        )
