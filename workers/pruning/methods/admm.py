"""The alternating direction method of multipliers, as pruning uses it: train, project, account for the difference.

minimise L(W) + I[Z in S] subject to W = Z, with the scaled dual U (Boyd et al. 2011, section 3.1.1):

    W <- argmin L(W) + rho/2 |W - Z + U|^2      the performance-improving subproblem
    Z <- projection of V = W + U onto S         the global pruning subproblem
    U <- U + W - Z
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from workers.pruning.types import BoolArray, Json

Point = Mapping[str, npt.NDArray[np.floating[Any]]]
State = TypeVar("State")

SMALL_RESIDUAL: Final = 1e-3  # |W - Z| / |W|
UNCHANGED_ROUNDS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Residuals:
    """How far the two halves of the problem disagree after a round, relative to |W|."""

    primal: float  # |W - Z| / |W|
    dual: float  # rho |Z - Z before| / |W|
    rho: float

    def to_json(self) -> dict[str, Json]:
        """Give the figures of the report."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Iterate(Generic[State]):
    """Where the method stands: W within a larger state, its pruned copy Z, the dual U, and the history."""

    state: State  # what carries W
    z: Point
    u: Point
    rho: float
    residuals: tuple[Residuals, ...] = ()
    masks: tuple[BoolArray, ...] = ()  # what Z keeps, of the last rounds

    @property
    def settled(self) -> bool:
        """Whether W is as good as pruned and the choice has not changed for two rounds.

        A stopping rule and no proof: the set is not convex, and the projection is not the Euclidean one.
        """
        if len(self.masks) <= UNCHANGED_ROUNDS or self.residuals[-1].primal >= SMALL_RESIDUAL:
            return False
        return all(np.array_equal(self.masks[-1], mask) for mask in self.masks[-1 - UNCHANGED_ROUNDS : -1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem(Generic[State]):
    """The two subproblems; `rho` grows by `growth` a round up to `rho_max`."""

    point: Callable[[State], Point]  # the W of a state
    improve: Callable[[State, Point, float], State]  # (state, Z - U, rho) -> state with W near its argmin
    project: Callable[[State, Point], tuple[Point, BoolArray]]  # (state, V) -> Z, what it keeps
    growth: float
    rho_max: float


def start(problem: Problem[State], state: State, rho: float) -> Iterate[State]:
    """Give the first iterate: Z = W, U = 0."""
    point = problem.point(state)
    return Iterate(state=state, z=dict(point), u={name: np.zeros_like(array) for name, array in point.items()}, rho=rho)


def advance(problem: Problem[State], iterate: Iterate[State]) -> Iterate[State]:
    """Take one round: both subproblems and the dual update."""
    anchors = {name: array - iterate.u[name] for name, array in iterate.z.items()}
    state = problem.improve(iterate.state, anchors, iterate.rho)
    w = problem.point(state)
    z, mask = problem.project(state, {name: w[name] + iterate.u[name] for name in w})
    size = norm(w) or 1.0
    residuals = Residuals(
        primal=distance(w, z) / size, dual=iterate.rho * distance(z, iterate.z) / size, rho=iterate.rho
    )
    return Iterate(
        state=state,
        z=z,
        u={name: iterate.u[name] + w[name] - z[name] for name in w},
        rho=min(iterate.rho * problem.growth, problem.rho_max),
        residuals=(*iterate.residuals, residuals),
        masks=(*iterate.masks, mask)[-1 - UNCHANGED_ROUNDS :],
    )


def cubic(number: int, rounds: int) -> float:
    """Give the share of the way to the target after `number` of `rounds`: fast first, all of it at the end.

    Source: 1 - (1 - t/T)^3, the schedule of Zhu and Gupta 2017, which is usual for gradual pruning.
    """
    return 1.0 - (1.0 - min(1.0, number / rounds)) ** 3


def norm(point: Point) -> float:
    """Give the Euclidean norm of all arrays together."""
    return sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in point.values()))


def distance(a: Point, b: Point) -> float:
    """Give the Euclidean distance of two points with the same names."""
    return norm({name: np.asarray(a[name], np.float64) - np.asarray(b[name], np.float64) for name in a})
