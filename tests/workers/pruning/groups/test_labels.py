"""Labels move as the elements that they stand for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.pruning.groups.labels import (
    UNKNOWN,
    Labels,
    NotUnderstood,
    along,
    concatenate,
    expand,
    fixed,
    reshape,
    reshape_size,
    take,
    transpose,
)

SHAPES = [
    ((2, 6, 4), (12, 4)),
    ((2, 6, 4), (2, 24)),
    ((2, 6, 4), (48,)),
    ((2, 6, 4), (2, 2, 3, 4)),
    ((1, 6, 1, 1), (1, 6)),
    ((6,), (1, 6, 1)),
    ((2, 3, 4, 5), (6, 20)),
    ((4, 6), (8, 3)),
]


def full(labels: Labels) -> np.ndarray:
    """Every label written out."""
    return np.broadcast_to(labels.compact, labels.shape)


def compressed(array: np.ndarray) -> Labels:
    """Labels of a whole array."""
    return reshape(Labels(array.shape, array), array.shape)


@given(st.sampled_from(SHAPES), st.integers(0, 3), st.integers(0, 100))
def test_a_reshape_of_labels_is_the_reshape_of_the_array(shapes: tuple, axis: int, seed: int) -> None:
    """Whatever axis changes, every element keeps its label."""
    old, new = shapes
    axis %= len(old)
    labels = along(np.random.default_rng(seed).integers(0, 4, old[axis]), axis, old)
    expected = full(labels).reshape(new)

    assert (expected == full(reshape(labels, new))).all()


@given(st.integers(0, 100))
def test_movement_agrees_with_numpy(seed: int) -> None:
    """Transposing, taking, expanding and joining do to labels what numpy does to arrays."""
    random = np.random.default_rng(seed)
    array = random.integers(0, 3, (1, 4, 1)) + np.zeros((2, 4, 3), np.int64)
    labels = Labels((2, 4, 3), array[:1, :, :1])
    positions = random.integers(0, 4, 5)

    assert (array.transpose(2, 0, 1) == full(transpose(labels, (2, 0, 1)))).all()
    assert (array.take(positions, axis=1) == full(take(labels, 1, positions))).all()
    assert (array[:, 2] == full(take(labels, 1, np.asarray(2)))).all()
    assert (np.concatenate([array, array], 1) == full(concatenate([labels, labels], 1))).all()
    assert (np.concatenate([array, array], 2) == full(concatenate([labels, labels], 2))).all()
    assert (np.broadcast_to(array, (5, 2, 4, 3)) == full(expand(labels, (5, 2, 4, 3)))).all()


def test_an_activation_costs_its_channels_only() -> None:
    """64 channels of 224 x 224 are 64 labels, and a Flatten of 512 x 7 x 7 is 25,088."""
    image = along(np.arange(1, 65), 1, (1, 64, 224, 224))
    flat = reshape(along(np.arange(1, 513), 1, (1, 512, 7, 7)), (1, 25088))

    assert 64 == image.compact.size
    assert 25088 == flat.compact.size
    assert (np.repeat(np.arange(1, 513), 49) == flat.compact.reshape(-1)).all()


def test_the_size_of_a_reshape_is_known_beforehand() -> None:
    """Only axes that take part in a change are written out: 3 x 4 of (2, 3, 4, 5)."""
    labels = along(np.arange(1, 4), 1, (2, 3, 4, 5))

    assert 12 == reshape_size(labels, (2, 12, 5))
    assert 3 == reshape_size(labels, (2, 3, 20))


def test_unknown_lengths_pass_where_labels_do_not_change() -> None:
    """A dynamic image size is no obstacle to following channels."""
    labels = along(np.arange(1, 4), 1, (1, 3, UNKNOWN, UNKNOWN))

    assert (1, 3, UNKNOWN, 1, UNKNOWN) == reshape(labels, (1, 3, UNKNOWN, 1, UNKNOWN)).shape
    assert UNKNOWN == concatenate([labels, labels], 2).shape[2]
    with pytest.raises(NotUnderstood, match="unknown length"):
        reshape(labels, (1, UNKNOWN, 5))


@pytest.mark.parametrize("target", [(5,), (7, 2), (0, 6)])
def test_a_reshape_to_another_number_of_elements_is_not_understood(target: tuple[int, ...]) -> None:
    """Such a file is broken; its channels are frozen rather than guessed."""
    with pytest.raises(NotUnderstood):
        reshape(along(np.arange(1, 4), 1, (2, 3)), target)


def test_labels_that_never_change_are_one_number() -> None:
    """Frozen tensors of any size cost one label."""
    assert 1 == fixed((1, 3, 4096, 4096)).compact.size
    assert (0, 0) == (concatenate([fixed((1, 3)), fixed((1, 5))], 1).compact.max(), len(fixed((1, 3)).varying))
    assert compressed(np.full((3, 4), 7)).compact.shape == (1, 1)
