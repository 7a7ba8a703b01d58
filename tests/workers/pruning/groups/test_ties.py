"""Union-find on arrays."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workers.pruning.groups.ties import Ties


@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=80), st.integers(0, 80))
def test_classes_are_the_connected_components(count: int, pairs: list[tuple[int, int]], split: int) -> None:
    """Two labels get the same root exactly when a chain of ties joins them; the root is the smallest member."""
    ties = Ties()
    ties.fresh(count)
    known = [(a % (count + 1), b % (count + 1)) for a, b in pairs]
    for a, b in known[:split]:
        ties.unite(np.asarray([a]), np.asarray([b]))
    ties.roots()
    for a, b in known[split:]:
        ties.unite(np.asarray([a]), np.asarray([b]))
    expected = list(range(count + 1))
    for _ in range(count + 1):  # reference: pull the smaller name along every tie until nothing changes
        for a, b in known:
            expected[a] = expected[b] = min(expected[a], expected[b])

    assert expected == ties.roots().tolist()


def test_a_long_chain_is_resolved() -> None:
    """100,000 labels tied one to the next are one class."""
    ties = Ties()
    chain = ties.fresh(100_000)
    ties.unite(chain[:-1], chain[1:])

    assert (ties.roots()[chain] == chain[0]).all()


def test_nothing_to_tie_is_said() -> None:
    """Labels that are equal already change nothing; freezing ties to label 0."""
    ties = Ties()
    labels = ties.fresh(3)

    assert not ties.unite(labels, labels)
    assert ties.unite(labels, labels[:1])
    ties.freeze(labels[2:])
    assert [0, 0, 0, 0] == ties.roots().tolist()
