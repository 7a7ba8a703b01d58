"""Samples by index, ready for the network; a split is an index over shared rows, never a copy of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from workers.pruning.training.preprocessing import Preprocessing
from workers.pruning.types import AnyArray, IntArray

HELD_OUT_SHARE: Final = 10  # one sample in ten
HOLDOUT_STREAM: Final = 1  # tells the seeds of independent draws apart


class Rows(Protocol):
    """Stored samples of one input of the network."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def take(self, indices: IntArray) -> AnyArray:
        """Return the samples asked for as the network takes them; a new array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRows:
    """Samples kept as they were uploaded (uint8 stays uint8), converted batch by batch."""

    stored: AnyArray
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.stored)

    def take(self, indices: IntArray) -> AnyArray:
        """Return the samples asked for, preprocessed."""
        return self.preprocessing.apply(self.stored[indices])


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Some samples of a dataset: one set of rows per network input, and labels where they are known."""

    rows: tuple[Rows, ...]
    index: IntArray  # position of each sample among the rows
    labels: IntArray | None = None  # (number of samples,)
    origin: str = ""  # what the upload calls these samples: an array or a folder

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, indices: IntArray) -> tuple[AnyArray, ...]:
        """Return the samples at `indices` (0..len-1), one array per network input, in its dtype and layout."""
        positions = self.index[np.asarray(indices, dtype=np.int64)]
        return tuple(rows.take(positions) for rows in self.rows)

    def batches(self, batch_size: int) -> Iterator[tuple[AnyArray, ...]]:
        """Yield all samples in order, `batch_size` at a time; the last batch may be smaller."""
        for start in range(0, len(self), batch_size):
            yield self.batch(np.arange(start, min(start + batch_size, len(self)), dtype=np.int64))


def hold_out(samples: Samples, seed: int) -> tuple[Samples, Samples]:
    """Divide samples into (train, held out): a tenth, at least one, each class in proportion where labels are known.

    Source: systematic sampling; samples in random order are sorted by class, and every tenth is taken from a random
    start, so each class gives its tenth, rounded up or down.
    """
    rng = np.random.default_rng([seed, HOLDOUT_STREAM])
    order = rng.permutation(len(samples))
    if samples.labels is not None:
        order = order[np.argsort(samples.labels[order], kind="stable")]
    step = min(HELD_OUT_SHARE, len(samples))
    chosen = np.zeros(len(samples), dtype=np.bool_)
    chosen[order[int(rng.integers(step)) :: step]] = True
    return select(samples, ~chosen), select(samples, chosen)


def select(samples: Samples, chosen: AnyArray) -> Samples:
    """Return the samples where a boolean mask is true, in their order."""
    labels = None if samples.labels is None else samples.labels[chosen]
    return replace(samples, index=samples.index[chosen], labels=labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What was read from an upload for one network, before anything is held out."""

    train: Samples
    held_out: Samples | None  # what the upload itself sets apart
    preprocessing: tuple[Preprocessing, ...]  # one per network input
    classes: tuple[str, ...]  # class folders; empty where labels are numbers
    num_classes: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What an upload holds, as far as it shows without a network."""

    labelled: bool
    num_samples: int
    num_classes: int | None
    classes: tuple[str, ...]
    shape: tuple[int | None, ...]  # of one stored sample; None where samples differ
    dtype: str
    splits: Mapping[str, int]
    notes: tuple[str, ...]
