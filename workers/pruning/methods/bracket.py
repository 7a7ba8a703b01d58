"""Where a predicted time has to lie so that the measured one is as wanted: between plans that were measured.

Pure arithmetic on pairs of what was predicted and what was measured; a device is not asked here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Final

_LEAST_SLOPE: Final = 0.5  # of log measured over log predicted; a call that costs much makes it small
_MOST_SLOPE: Final = 2.0
_APART: Final = 0.02  # of log predicted; points that lie closer tell no slope
_MARGIN: Final = 0.1  # of a bracket that is left on each of its sides


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Something that was measured, and what is predicted of it now."""

    predicted_ms: float
    measured_ms: float


def to_predict(wanted_ms: float, plans: Sequence[Point], original: Point) -> float:
    """What a plan has to be predicted to take so that it takes `wanted_ms` when it is measured.

    Source: regula falsi with safeguards (Dahlquist and Bjorck 1974, 6.4). From the plan whose time is
    nearest to what is wanted along the line to the nearest one on the other side; the original is the first point
    above. Without one on the other side, along the line to the next one on the same side. Between two points of which
    the predictions have the order of the measurements the result keeps a tenth of their distance from both, so that
    every plan shortens the bracket. Slopes are bounded, since noise on two points that are close together gives any.

    Args:
        wanted_ms: the time to reach.
        plans: what was measured so far; with none, predictions are believed.
        original: the network as it was uploaded.
    """
    if not plans:
        return wanted_ms
    near = min(plans, key=lambda point: abs(_log_ratio(point.measured_ms, wanted_ms)))
    points = [*plans, original]
    below = max((one for one in points if one.measured_ms <= wanted_ms), key=_measured, default=None)
    above = min((one for one in points if one.measured_ms > wanted_ms), key=_measured, default=None)
    across = above if near.measured_ms <= wanted_ms else below
    if across is None:
        others = [one for one in points if one is not near]
        across = min(others, key=lambda point: abs(_log_ratio(point.measured_ms, wanted_ms)))
    way = log(near.predicted_ms) + _step(wanted_ms, near, across)
    if below is not None and above is not None and below.predicted_ms < above.predicted_ms:
        low, high = log(below.predicted_ms), log(above.predicted_ms)
        margin = _MARGIN * (high - low)
        way = min(max(way, low + margin), high - margin)
    return exp(way)


def _step(wanted_ms: float, near: Point, other: Point) -> float:
    """How far to go from a point in log of what is predicted, along the line to another one."""
    step = _log_ratio(wanted_ms, near.measured_ms)
    if abs(_log_ratio(near.predicted_ms, other.predicted_ms)) < _APART:
        return step
    slope = (near.measured_ms - other.measured_ms) / (near.predicted_ms - other.predicted_ms)
    found = near.predicted_ms + (wanted_ms - near.measured_ms) / slope if slope > 0 else 0.0
    far = _log_ratio(found, near.predicted_ms) if found > 0 else step / _LEAST_SLOPE
    low, high = sorted((step / _MOST_SLOPE, step / _LEAST_SLOPE))
    return min(max(far, low), high)


def _measured(point: Point) -> float:
    return point.measured_ms


def _log_ratio(one: float, other: float) -> float:
    return log(one / other)
