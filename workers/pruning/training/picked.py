"""Rows that a network picks from an image, as samples of the layers behind: one of them for each image."""

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.graph.runtime import Session
from workers.pruning.graph.second_stage import fed_rows
from workers.pruning.graph.twin import session
from workers.pruning.graph.values import set_outputs
from workers.pruning.graph.weights import clone
from workers.pruning.training.data import Dataset
from workers.pruning.training.samples import Rows, Samples
from workers.pruning.types import AnyArray, IntArray

_STREAM: Final = 301  # keeps these draws apart from others of the same seed
_CACHE_BYTES: Final = 256 << 20


@dataclass(slots=True, kw_only=True)
class _Picker:
    """The original up to its second stage, run on one image at a time; remembers what it picked."""

    session: Session
    images: tuple[Rows, ...]
    seed: int
    kept: dict[int, tuple[AnyArray, ...]] = field(default_factory=dict)
    room: int = _CACHE_BYTES

    def pick(self, position: int) -> tuple[AnyArray, ...]:
        """Give one row of everything that enters, the same one each time."""
        if position in self.kept:
            return self.kept[position]
        found = self.session.run([rows.take(np.asarray([position], np.int64)) for rows in self.images])
        drawn = int(np.random.default_rng([self.seed, _STREAM, position]).integers(len(found[0])))
        picked = tuple(np.array(array[drawn]) for array in found)
        size = sum(array.nbytes for array in picked)
        if size <= self.room:
            self.room -= size
            self.kept[position] = picked
        return picked


@dataclass(frozen=True, slots=True, kw_only=True)
class PickedRows:
    """Rows of one input of the second stage, by the position of the image they are picked from."""

    picker: _Picker
    number: int  # among what enters

    def __len__(self) -> int:
        return len(self.picker.images[0])

    def take(self, indices: IntArray) -> AnyArray:
        """Return the row of each image."""
        return np.stack([self.picker.pick(int(position))[self.number] for position in indices])


def with_picked_rows(data: Dataset, whole: ir.Model, part: ir.Model, *, seed: int) -> Dataset:
    """Add to each sample what enters the second stage of the whole network for it; `part` is its trunk.

    A network without such a stage leaves the samples as they are.
    """
    names = list(fed_rows(part))
    if not names:
        return data
    front = clone(whole)
    set_outputs(front, [value.name for value in part.graph.inputs if value.name in names])
    opened = session(front)

    def extended(samples: Samples) -> Samples:
        picker = _Picker(session=opened, images=samples.rows, seed=seed)
        added = tuple(PickedRows(picker=picker, number=number) for number in range(len(names)))
        return replace(samples, rows=(*samples.rows, *added))

    return replace(data, train=extended(data.train), validation=extended(data.validation))
