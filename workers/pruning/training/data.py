"""Uploaded data as samples that a network takes, with everything stated that was done to them.

Formats: an .npz with `x`, `y` (and `x_val`, `y_val`), or a zip of images, one folder per class, also under `train/`
and `val/` or `test/`; both also without labels. See archives.py for what is refused before anything is read.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx_ir as ir

from workers.pruning.errors import InvalidDataset
from workers.pruning.graph.head import Head
from workers.pruning.training.archives import Archive, DataLimits
from workers.pruning.training.array_sets import describe_arrays, load_arrays
from workers.pruning.training.arrays import array_names
from workers.pruning.training.image_sets import describe_images, load_images
from workers.pruning.training.preprocessing import Wish, merge, parse
from workers.pruning.training.samples import HELD_OUT_SHARE, Loaded, Samples, hold_out
from workers.pruning.training.synthetic import noise_rows
from workers.pruning.types import Json, TensorSpec

__all__ = ["DataLimits", "Dataset", "Samples", "describe_dataset", "open_dataset", "require_match", "synthetic"]

Kind = Literal["labelled", "unlabelled", "synthetic"]
PREPROCESSING_MEMBER: Final = "preprocessing.json"
LONGEST_PREPROCESSING: Final = 1 << 16
DEFAULT_LIMITS: Final = DataLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Samples to prune with, and samples that only judge the result."""

    train: Samples
    validation: Samples  # never trained on, scored on or calibrated on
    kind: Kind
    num_classes: int | None
    classes: tuple[str, ...]  # names of class folders; empty where labels are numbers
    preprocessing: Mapping[str, Json]  # what was applied
    holdout: str  # where the validation samples come from, in words
    notes: tuple[str, ...] = ()  # what a user should know: resized images, files left out

    def to_json(self) -> dict[str, Json]:
        """Return what the report states about the data."""
        return {
            "kind": self.kind,
            "num_train": len(self.train),
            "num_held_out": len(self.validation),
            "held_out": self.holdout,
            "num_classes": self.num_classes,
            "classes": list(self.classes),
            "preprocessing": self.preprocessing,
            "notes": list(self.notes),
        }


def open_dataset(
    path: Path,
    inputs: Sequence[TensorSpec],
    *,
    preprocessing: Mapping[str, object] | None = None,
    seed: int,
    limits: DataLimits = DEFAULT_LIMITS,
) -> Dataset:
    """Read an upload as samples of a network, and set a part aside for judging.

    Held out is what the upload itself sets apart (`x_val`, `val/`, `test/`), else a tenth, chosen by the seed, each
    class in proportion. Keys of `preprocessing` win over the archive's own `preprocessing.json`.

    Raises:
        InvalidDataset: a hostile or damaged archive, or data that does not fit the network; says what, where (member
            or array), what was found, what is allowed.
    """
    with Archive(path, limits) as archive:
        wish = merge(parse(preprocessing or {}, "preprocessing"), stored_wish(archive))
        loaded = (load_arrays if array_names(archive) else load_images)(archive, inputs, wish)
    train, validation, holdout = divide(loaded, seed)
    applied = {spec.name: one.to_json() for spec, one in zip(inputs, loaded.preprocessing, strict=True)}
    return Dataset(
        train=train,
        validation=validation,
        kind="unlabelled" if train.labels is None else "labelled",
        num_classes=loaded.num_classes,
        classes=loaded.classes,
        preprocessing=next(iter(applied.values())) if len(applied) == 1 else applied,
        holdout=holdout,
        notes=loaded.notes,
    )


def describe_dataset(path: Path, *, limits: DataLimits = DEFAULT_LIMITS) -> dict[str, Json]:
    """Describe an upload without knowing the network, in the words of the API's Dataset.

    Headers and labels are read; pixels and samples are not, so a damaged image may only show in the job.

    Raises:
        InvalidDataset: a hostile or damaged archive, or one without samples.
    """
    with Archive(path, limits) as archive:
        wish = stored_wish(archive)
        found = (describe_arrays if array_names(archive) else describe_images)(archive)
    return {
        "kind": "labelled" if found.labelled else "unlabelled",
        "num_samples": found.num_samples,
        "num_classes": found.num_classes,
        "classes": list(found.classes),
        "shape": list(found.shape),
        "dtype": found.dtype,
        "splits": dict(found.splits),
        "has_preprocessing": wish != Wish(),
        "warnings": list(found.notes),
    }


def synthetic(graph: ir.Model, inputs: Sequence[TensorSpec], *, seed: int, num_samples: int = 1024) -> Dataset:
    """Make up samples where there is no data: seeded noise, as strong as the first layer's stored statistics say.

    Figures measured on it say how alike two networks are, not how good they are on real data.

    Raises:
        UnknownShape: an input with axes of unknown length.
        InvalidDataset: an input for which noise would mean nothing.
    """
    rows = noise_rows(graph, inputs, num_samples=num_samples, seed=seed)
    made_up = "No data was given: inputs are seeded noise, and agreement on them is not accuracy."
    opened = [(own, row.spec) for own, row in zip(inputs, rows, strict=True) if own.shape[1:] != row.spec.shape[1:]]
    everything = Samples(rows=rows, index=np.arange(num_samples, dtype=np.int64), origin="synthetic")
    train, validation = hold_out(everything, seed)
    return Dataset(
        train=train,
        validation=validation,
        kind="synthetic",
        num_classes=None,
        classes=(),
        preprocessing={},
        holdout=f"{len(validation)} of {num_samples} made-up samples",
        notes=(made_up, *(_sizes_chosen(own, chosen) for own, chosen in opened)),
    )


def _sizes_chosen(own: TensorSpec, chosen: TensorSpec) -> str:
    lengths = "x".join(str(length) for length in chosen.shape[1:])
    return f"Input {own.name!r} leaves axes open; samples of {lengths} were made up for it."


def require_match(dataset: Dataset, outputs: Sequence[TensorSpec], head: Head) -> None:
    """Refuse labels that are not classes of the network.

    Raises:
        InvalidDataset: another number of class folders than outputs, or a label outside 0..K-1 (the first is named).
    """
    if not head.is_classification or dataset.train.labels is None:
        return
    num_outputs = outputs[0].shape[1]
    if not isinstance(num_outputs, int):
        return
    if dataset.classes and len(dataset.classes) != num_outputs:
        raise InvalidDataset(
            "The number of class folders is not the number of the network's classes",
            where=f"output {outputs[0].name!r}",
            actual=f"{len(dataset.classes)} folders: {', '.join(dataset.classes[:10])}",
            allowed=f"{num_outputs}",
        )
    for samples in (dataset.train, dataset.validation):
        require_range(samples, num_outputs, outputs[0].name)


def require_range(samples: Samples, num_classes: int, output: str) -> None:
    """Refuse labels outside 0..num_classes-1."""
    if samples.labels is None:
        return
    outside = np.flatnonzero((samples.labels < 0) | (samples.labels >= num_classes))
    if outside.size:
        first = int(outside[0])
        raise InvalidDataset(
            f"A label is not a class of the network (output {output!r})",
            where=f"{samples.origin}[{samples.index[first]}]",
            actual=int(samples.labels[first]),
            allowed=f"0 to {num_classes - 1}",
            advice="Number classes from 0 in the order of the network's outputs.",
        )


def divide(loaded: Loaded, seed: int) -> tuple[Samples, Samples, str]:
    """Return (train, held out, in words where the held-out samples come from)."""
    if loaded.held_out is not None:
        return loaded.train, loaded.held_out, f"{loaded.held_out.origin} as uploaded, {len(loaded.held_out)} samples"
    total = len(loaded.train)
    if total < 2:
        raise InvalidDataset(
            "One sample cannot both prune and judge", actual=total, allowed="2 samples or more, or a held-out set"
        )
    train, validation = hold_out(loaded.train, seed)
    by_class = ", each class in proportion" if validation.labels is not None else ""
    share = f"1 in {HELD_OUT_SHARE}" if total >= HELD_OUT_SHARE else "one"
    return train, validation, f"{len(validation)} of {total} samples ({share}{by_class}), chosen by seed {seed}"


def stored_wish(archive: Archive) -> Wish:
    """Read the archive's own preprocessing, from its top or from below its one outer folder."""
    names = [name for name in archive.names if name.count("/") <= 1 and name.rsplit("/", 1)[-1] == PREPROCESSING_MEMBER]
    if not names:
        return Wish()
    if len(names) > 1:
        raise InvalidDataset("There are several preprocessing members", actual=", ".join(names), allowed="one")
    name = names[0]
    if archive.size(name) > LONGEST_PREPROCESSING:
        raise InvalidDataset("The member is too long", where=name, allowed=f"{LONGEST_PREPROCESSING} bytes")
    try:
        given = json.loads(archive.read(name).decode())
    except (ValueError, RecursionError) as error:
        raise InvalidDataset("The member is not JSON", where=name, actual=str(error)) from error
    if not isinstance(given, dict):
        raise InvalidDataset("The member is not a JSON object", where=name, actual=type(given).__name__)
    return parse(given, name)
