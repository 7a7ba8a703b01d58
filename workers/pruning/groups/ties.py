"""Which labels are tied to each other: a union-find whose work is done on whole arrays."""

import numpy as np

from workers.pruning.groups.labels import FIXED
from workers.pruning.types import IntArray


class Ties:
    """Labels 1.. and the ties between them; the class of a label is named by its smallest member."""

    def __init__(self) -> None:
        self._count = 1
        self._parent: IntArray = np.zeros(1, np.int64)
        self._left: list[IntArray] = []
        self._right: list[IntArray] = []

    def fresh(self, count: int) -> IntArray:
        """New labels that nothing is tied to yet."""
        first = self._count
        self._count += count
        return np.arange(first, self._count, dtype=np.int64)

    def unite(self, left: IntArray, right: IntArray) -> bool:
        """Tie labels element by element, with broadcasting; tell whether there was anything to tie."""
        left, right = np.broadcast_arrays(left, right)
        differs = left != right
        if not differs.any():
            return False
        self._left.append(left[differs])
        self._right.append(right[differs])
        return True

    def freeze(self, labels: IntArray) -> None:
        """Tie labels to those that always stay."""
        self.unite(np.unique(labels), np.full(1, FIXED, np.int64))

    def roots(self) -> IntArray:
        """Smallest member of the class of every label, index by label.

        Source: pointer jumping with hooking of the larger root under the smaller one (Shiloach and Vishkin 1982); each
        round hooks every class that still differs, so the number of rounds grows with the logarithm of a chain.
        """
        parent = np.concatenate([self._parent, np.arange(len(self._parent), self._count, dtype=np.int64)])
        if self._left:
            left, right = np.concatenate(self._left), np.concatenate(self._right)
            self._left, self._right = [], []
            left, right = parent[left], parent[right]
            while (open_ties := left != right).any():
                left, right = left[open_ties], right[open_ties]
                np.minimum.at(parent, np.maximum(left, right), np.minimum(left, right))
                parent = _flat(parent)
                left, right = parent[left], parent[right]
        self._parent = parent
        return parent


def _flat(parent: IntArray) -> IntArray:
    while True:
        jumped = parent[parent]
        if np.array_equal(jumped, parent):
            return parent
        parent = jumped
