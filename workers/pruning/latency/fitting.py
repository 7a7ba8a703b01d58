"""Small linear fits with bounds: times are sums of parts none of which is negative."""

from itertools import combinations

import numpy as np

from workers.pruning.types import FloatArray


def fit(features: FloatArray, times: FloatArray) -> FloatArray:
    """Least squares of relative errors with coefficients from 0 up.

    Source: the solution has some set of positive coefficients and solves the plain problem restricted to them, so the
    best feasible one over all sets is it (non-negative least squares by enumeration; Lawson and Hanson 1974, chapter
    23). With at most six features that is 63 small problems.

    Shapes: features (rows, features), times (rows,); the result (features,).
    """
    relative = features / times[:, None]
    scale = np.maximum(np.abs(relative).max(axis=0), 1e-300)
    columns = relative / scale
    ones = np.ones(len(times))
    best, least = np.zeros(features.shape[1]), float(len(times))
    for size in range(1, min(features.shape) + 1):
        for chosen in combinations(range(features.shape[1]), size):
            part = columns[:, chosen]
            found = np.linalg.lstsq(part, ones, rcond=None)[0]
            error = float(((part @ found - ones) ** 2).sum())
            if (found >= 0).all() and error < least * (1 - 1e-9):
                least = error
                best = np.zeros(features.shape[1])
                best[list(chosen)] = found
    return np.asarray(best / scale, np.float64)
