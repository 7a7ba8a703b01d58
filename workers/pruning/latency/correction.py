"""What whole networks taught about the sum of their rows: a ratio that depends on size and on kinds of operators."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log
from typing import Final

import numpy as np

_NOISE: Final = 0.02  # of a measured network; all spreads are of log ratios
_COMMON_SPREAD: Final = 0.1  # of what all networks share on a device
_SIZE_SPREAD: Final = 0.15  # of what networks of one size share: small ones stay in caches, large ones do not
_SIZE_REACH: Final = 0.7  # in log milliseconds: a network of half the size shares about a third of that
_KIND_SPREAD: Final = 0.05  # of a kind of operator
_ROUNDS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A network that was timed as a whole: what its rows add up to by kind, and what it took."""

    name: str
    parts_ms: Mapping[str, float]
    measured_ms: float

    @property
    def sum_ms(self) -> float:
        """What its rows add up to."""
        return sum(self.parts_ms.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """Factors on the parts of a prediction, by kind and by the size of the network."""

    common: float = 0.0  # log ratio that all networks share
    kinds: Mapping[str, float] = field(default_factory=dict)  # log ratio of a kind beyond that
    sizes: tuple[tuple[float, float], ...] = ()  # (log milliseconds, weight) of the networks it was learned from

    def apply(self, parts_ms: Mapping[str, float]) -> float:
        """Give what a network takes whose rows add up to this."""
        size = sum(parts_ms.values())
        return sum(self.factor(kind, size) * ms for kind, ms in parts_ms.items())

    def factor(self, kind: str, sum_ms: float) -> float:
        """Give what a millisecond of a row of this kind takes inside a network whose rows add up to `sum_ms`."""
        return exp(self.common + self.kinds.get(kind, 0.0) + self._of_size(sum_ms))

    def sum_for(self, corrected_ms: float) -> float:
        """Give what the rows of a network add up to that takes `corrected_ms`, whatever its kinds."""
        found = corrected_ms
        for _ in range(_ROUNDS):
            found = corrected_ms / exp(self.common + self._of_size(found))
        return found

    def _of_size(self, sum_ms: float) -> float:
        here = log(max(sum_ms, 1e-9))
        return sum(weight * exp(-abs(here - there) / _SIZE_REACH) for there, weight in self.sizes)


def learned(networks: Sequence[Observed]) -> Correction:
    """Fit the factors to measured networks.

    Source: Gaussian process regression of log(measured / sum of rows) about 0 (Rasmussen and Williams 2006, 2.2), with
    the covariance common^2 + size^2 exp(-|log a - log b| / reach) + kind^2 sum over kinds of the product of shares. The
    sum of rows is right within a few percent on small networks and too small on large ones, whose weights come from
    farther away; so one network teaches most about those of its size, and several tell sizes and kinds apart.
    """
    if not networks:
        return Correction()
    kinds = sorted({kind for network in networks for kind in network.parts_ms})
    shares = np.asarray([[n.parts_ms.get(kind, 0.0) / n.sum_ms for kind in kinds] for n in networks])
    sizes = np.log([network.sum_ms for network in networks])
    near = np.exp(-np.abs(sizes[:, None] - sizes[None, :]) / _SIZE_REACH)
    covariance = _COMMON_SPREAD**2 + _SIZE_SPREAD**2 * near + _KIND_SPREAD**2 * shares @ shares.T
    ratios = np.log([network.measured_ms / network.sum_ms for network in networks])
    weights = np.linalg.solve(covariance + _NOISE**2 * np.eye(len(networks)), ratios)
    return Correction(
        common=_COMMON_SPREAD**2 * float(weights.sum()),
        kinds=dict(zip(kinds, (_KIND_SPREAD**2 * shares.T @ weights).tolist(), strict=True)),
        sizes=tuple(zip(sizes.tolist(), (_SIZE_SPREAD**2 * weights).tolist(), strict=True)),
    )


def held_out(networks: Sequence[Observed]) -> tuple[float, ...]:
    """Relative error of each network when the factors are learned from the others; none from a single network."""
    if len(networks) < 2:
        return ()
    errors = []
    for left in networks:
        others = learned([network for network in networks if network is not left])
        errors.append(abs(others.apply(left.parts_ms) / left.measured_ms - 1))
    return tuple(errors)
