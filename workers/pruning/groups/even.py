"""Grouped convolutions make equally many channels in each group: which classes have to go together for that."""

import numpy as np

from workers.pruning.groups.labels import FIXED
from workers.pruning.groups.propagation import Propagation
from workers.pruning.groups.ties import Ties
from workers.pruning.types import IntArray


def tie_uneven(state: Propagation, roots: IntArray) -> bool:
    """Tie classes that take more channels from one group of a convolution than from another; tell whether any did.

    Source: derivation. Where every class takes equally many channels from each group, so does any set of classes, and
    the filters that are left are a grouped convolution again. Otherwise there are two ways to go on, of which the one
    that leaves more classes is taken: the same positions of all groups go together, or classes are put together, in
    the order of their channels, until a bundle is even. The second is what a shuffle needs that deals out the channels
    of each group to several places: (groups, channels per group) = (4, 6) leaves 3 bundles, and no position by itself.
    """
    changed = False
    for rows in state.even:
        classes = roots[rows]
        if not _is_even(_counts(classes)):
            changed |= _tie(state.ties, classes)
    return changed


def _counts(classes: IntArray) -> IntArray:
    """How many channels every class takes from each group, FIXED left out: (classes, groups), in order of labels."""
    names, index = np.unique(np.append(classes, FIXED), return_inverse=True)
    counts = np.zeros((len(names), len(classes)), np.int64)
    np.add.at(counts, (index[:-1].reshape(classes.shape), np.arange(len(classes))[:, None]), 1)
    return np.asarray(counts[1:])


def _is_even(counts: IntArray) -> bool:
    return bool((counts == counts[:, :1]).all())


def _tie(ties: Ties, classes: IntArray) -> bool:
    bundles = _bundles(classes)
    if len(np.unique(bundles[bundles != FIXED])) > _num_by_position(classes):
        return ties.unite(classes, bundles)
    return ties.unite(classes, classes[:1])


def _num_by_position(classes: IntArray) -> int:
    """How many classes are left when the same positions of all groups go together."""
    present, index = np.unique(np.append(classes, FIXED), return_inverse=True)
    ties = Ties()
    ties.fresh(len(present) - 1)
    inner = index[:-1].reshape(classes.shape)
    ties.unite(inner, inner[:1])
    return len(np.unique(ties.roots())) - 1


def _bundles(classes: IntArray) -> IntArray:
    """For every class the first one of its bundle; FIXED for those behind the last bundle that is even.

    Classes come in the order in which their channels do, one of each group in turns: for channels that nothing ties
    across groups, this puts the same positions together.
    """
    names, met = np.unique(np.append(classes.T, FIXED), return_index=True)
    order = np.argsort(met[1:])
    total = np.cumsum(_counts(classes)[order], axis=0)
    ends = np.flatnonzero((total == total[:, :1]).all(axis=1))
    starts = np.concatenate([[0], ends + 1])
    bundle = np.searchsorted(ends, np.arange(len(order)))
    first = np.full(len(names), FIXED)
    first[1 + order] = np.where(bundle < len(ends), names[1 + order[np.minimum(starts[bundle], len(order) - 1)]], FIXED)
    return first[np.searchsorted(names, classes)]
