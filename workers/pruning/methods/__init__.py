"""One file per method; METHODS holds them by the name that a job gives."""

from collections.abc import Callable, Mapping
from typing import Final

from workers.pruning.methods.auto import auto
from workers.pruning.methods.baselines import magnitude, random
from workers.pruning.methods.dynhp import dynhp
from workers.pruning.methods.easiedge import easiedge
from workers.pruning.methods.lcp import lcp
from workers.pruning.methods.task import Outcome
from workers.pruning.methods.taylor import taylor

METHODS: Final[Mapping[str, Callable[..., Outcome]]] = {
    "auto": auto,
    "dynhp": dynhp,
    "easiedge": easiedge,
    "lcp": lcp,
    "magnitude": magnitude,
    "random": random,
    "taylor": taylor,
}
