"""What whole networks taught about the sum of their rows: a scale, and a ratio for each kind of operator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from workers.pruning.latency.fitting import ridge
from workers.pruning.types import FloatArray

_NOISE: Final = 0.02  # of a measured network
_SCALE_SPREAD: Final = 0.3  # expected of one scale for all kinds
_KIND_SPREAD: Final = 0.15  # expected of a kind about that scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A network that was timed as a whole: what its rows add up to by kind, and what it took."""

    name: str
    parts_ms: Mapping[str, float]
    measured_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """Factors on the parts of a prediction."""

    scale: float = 1.0
    ratios: Mapping[str, float] = field(default_factory=dict)  # by kind, the scale included

    def apply(self, parts_ms: Mapping[str, float]) -> float:
        """Give what a network takes whose rows add up to this."""
        return sum(self.factor(kind) * ms for kind, ms in parts_ms.items())

    def factor(self, kind: str) -> float:
        """Give what a millisecond of a row of this kind takes inside a network."""
        return self.ratios.get(kind, self.scale)


def learned(networks: Sequence[Observed]) -> Correction:
    """Fit the factors to measured networks.

    Source: ridge regression on relative errors about factors of 1. Inside a network weights come from farther away than
    in a graph of one operator, and layouts change between layers; both affect kinds of operators differently, but a
    few networks cannot tell kinds apart, so what they share is the scale and a kind departs from it only as far as the
    networks insist.
    """
    kinds = sorted({kind for network in networks for kind in network.parts_ms})
    if not networks:
        return Correction()
    shares = np.asarray([[n.parts_ms.get(kind, 0.0) / n.measured_ms for kind in kinds] for n in networks])
    features = np.column_stack([shares.sum(axis=1), shares]) / _NOISE
    missing = (1.0 - shares.sum(axis=1)) / _NOISE
    precision = np.asarray([_SCALE_SPREAD**-2] + [_KIND_SPREAD**-2] * len(kinds))
    found: FloatArray = ridge(features, missing, precision)
    scale = max(0.1, 1.0 + float(found[0]))
    ratios = {kind: max(0.1, scale + float(own)) for kind, own in zip(kinds, found[1:], strict=True)}
    return Correction(scale=scale, ratios=ratios)


def held_out(networks: Sequence[Observed]) -> tuple[float, ...]:
    """Relative error of each network when the factors are learned from the others; none from a single network."""
    if len(networks) < 2:
        return ()
    errors = []
    for left in networks:
        others = learned([network for network in networks if network is not left])
        errors.append(abs(others.apply(left.parts_ms) / left.measured_ms - 1))
    return tuple(errors)
