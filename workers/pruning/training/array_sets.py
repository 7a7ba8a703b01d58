"""An .npz as a dataset: `x`, `y`, `x_val`, `y_val`, or one array per input for networks with several inputs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from workers.pruning.errors import InvalidDataset
from workers.pruning.training.archives import Archive, refuse_above
from workers.pruning.training.arrays import ArrayHeader, array_names, read_array, read_header
from workers.pruning.training.preprocessing import Preprocessing, Wish, infer, resize_rows
from workers.pruning.training.samples import Description, Loaded, Samples, StoredRows
from workers.pruning.types import IntArray, TensorSpec

SAMPLES: Final = "x"
LABELS: Final = "y"
HELD_OUT: Final = "_val"


def describe_arrays(archive: Archive) -> Description:
    """Describe the arrays of an upload; only headers and labels are read.

    Raises:
        InvalidDataset: an array that cannot be read, missing samples, lengths that differ.
    """
    names = input_names(archive)
    headers = [read_header(archive, name) for name in names]
    num_train = sample_count(archive, names, "")
    splits = {"train": num_train}
    if f"{names[0]}{HELD_OUT}" in array_names(archive):
        splits["val"] = sample_count(archive, names, HELD_OUT)
    labels, notes = read_labels(archive, LABELS, num_train)
    return Description(
        labelled=labels is not None,
        num_samples=sum(splits.values()),
        num_classes=count_classes(labels),
        classes=(),
        shape=headers[0].shape[1:],
        dtype=str(headers[0].dtype),
        splits=splits,
        notes=notes,
    )


def load_arrays(archive: Archive, inputs: Sequence[TensorSpec], wish: Wish) -> Loaded:
    """Read the arrays of an upload as samples of a network; each member is read once.

    Raises:
        InvalidDataset: missing arrays, lengths that differ, samples that do not fit the network, values that are not
            finite, more than may lie in memory.
    """
    names = names_of_inputs(archive, inputs)
    if len(names) > 1 and wish != Wish():
        raise InvalidDataset("Preprocessing is for networks with one input", actual=f"{len(names)} inputs")
    train, preprocessing, notes = load_split(archive, names, inputs, wish, suffix="")
    held_out = None
    if any(f"{name}{HELD_OUT}" in array_names(archive) for name in (*names, LABELS)):
        held_out, held_out_preprocessing, more = load_split(archive, names, inputs, wish, suffix=HELD_OUT)
        require_alike(train, held_out, preprocessing, held_out_preprocessing)
        notes = (*notes, *more)
    require_memory(archive, train, held_out)
    unused = set(array_names(archive)) - {f"{name}{end}" for name in (*names, LABELS) for end in ("", HELD_OUT)}
    if unused:
        notes = (*notes, f"Arrays left unread: {', '.join(sorted(unused))}.")
    return Loaded(
        train=train,
        held_out=held_out,
        preprocessing=preprocessing,
        classes=(),
        num_classes=count_classes(train.labels),
        notes=notes,
    )


def input_names(archive: Archive) -> tuple[str, ...]:
    """Return the arrays that hold samples, where no network says so: `x`, or all that are not something else."""
    names = array_names(archive)
    if SAMPLES in names:
        return (SAMPLES,)
    others = tuple(name for name in names if name != LABELS and not name.endswith(HELD_OUT))
    return others or (SAMPLES,)


def names_of_inputs(archive: Archive, inputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Return the array of each network input: `x` for a single one, else the array named like the input."""
    if len(inputs) == 1 and SAMPLES in array_names(archive):
        return (SAMPLES,)
    return tuple(spec.name for spec in inputs)


def load_split(
    archive: Archive, names: Sequence[str], inputs: Sequence[TensorSpec], wish: Wish, *, suffix: str
) -> tuple[Samples, tuple[Preprocessing, ...], tuple[str, ...]]:
    """Read the samples and labels of one split."""
    count = sample_count(archive, names, suffix)
    labels, notes = read_labels(archive, f"{LABELS}{suffix}", count)
    rows = []
    for name, spec in zip(names, inputs, strict=True):
        header = require_array(archive, f"{name}{suffix}")
        preprocessing = infer(wish, spec, header.shape[1:], header.dtype)
        stored = read_array(archive, header)
        if preprocessing.resize is not None:
            stored = resize_rows(stored, preprocessing.resize, preprocessing.layout or "NHWC")
        rows.append(StoredRows(stored=stored, preprocessing=preprocessing))
    samples = Samples(
        rows=tuple(rows),
        index=np.arange(count, dtype=np.int64),
        labels=labels,
        origin=f"{LABELS if labels is not None else SAMPLES}{suffix}",
    )
    return samples, tuple(row.preprocessing for row in rows), notes


def require_array(archive: Archive, name: str) -> ArrayHeader:
    """Return the header of an array that must be there."""
    names = array_names(archive)
    if name not in names:
        raise InvalidDataset(
            f"The .npz has no array {name!r}",
            actual=", ".join(names),
            allowed="x and y, optionally x_val and y_val; for several inputs, arrays named like them",
            advice="np.savez_compressed(file, x=images, y=labels).",
        )
    return read_header(archive, name)


def sample_count(archive: Archive, names: Sequence[str], suffix: str) -> int:
    """Return how many samples a split has, the same for every input."""
    headers = [require_array(archive, f"{name}{suffix}") for name in names]
    for header in headers:
        if not header.shape or header.shape[0] != headers[0].shape[0]:
            raise InvalidDataset(
                "Arrays that belong together have different lengths",
                where=header.name,
                actual=list(header.shape),
                allowed=f"{headers[0].shape[0]} samples, as in {headers[0].name}" if headers[0].shape else "(N, ...)",
            )
        if 0 in header.shape:
            raise InvalidDataset("An array is empty", where=header.name, actual=list(header.shape))
    return headers[0].shape[0]


def read_labels(archive: Archive, name: str, count: int) -> tuple[IntArray | None, tuple[str, ...]]:
    """Read the labels of a split, if they are class numbers; else say why they are not used.

    Shapes: (N,) or (N, 1) integers.

    Raises:
        InvalidDataset: there are not as many labels as samples.
    """
    if name not in array_names(archive):
        return None, ()
    header = read_header(archive, name)
    if not header.shape or header.shape[0] != count:
        raise InvalidDataset(
            "Samples and labels have different lengths",
            where=name,
            actual=list(header.shape),
            allowed=f"{count} labels",
        )
    if header.dtype.kind not in "biu" or header.shape[1:] not in {(), (1,)}:
        found = f"{name} is {header.dtype}{list(header.shape)}"
        return None, (f"{found}, not one integer class number per sample: not used as labels.",)
    return read_array(archive, header).reshape(-1).astype(np.int64), ()


def count_classes(labels: IntArray | None) -> int | None:
    """Return the number of classes that labels speak of: the largest, and one for zero."""
    return None if labels is None else int(labels.max()) + 1


def require_alike(
    train: Samples, held_out: Samples, trained: Sequence[Preprocessing], other: Sequence[Preprocessing]
) -> None:
    """Refuse held-out arrays that are stored differently from the training arrays."""
    if [replace(p, resize=None) for p in trained] != [replace(p, resize=None) for p in other]:
        raise InvalidDataset("x_val is stored differently from x", where="x_val", allowed="the dtype and layout of x")
    if (train.labels is None) != (held_out.labels is None):
        raise InvalidDataset(
            "Only one of the splits has class labels",
            actual="y without y_val" if held_out.labels is None else "y_val without y",
            allowed="both, or neither; integers of shape (N,)",
        )


def require_memory(archive: Archive, *splits: Samples | None) -> None:
    """Refuse more stored samples than may lie in memory."""
    total = sum(rows.stored.nbytes for split in splits if split for rows in split.rows if isinstance(rows, StoredRows))
    refuse_above(total, archive.limits.max_decoded_bytes, "bytes", "The samples take too much memory")
