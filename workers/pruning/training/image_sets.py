"""A zip of images as a dataset."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from workers.pruning.errors import InvalidDataset
from workers.pruning.training.archives import Archive
from workers.pruning.training.images import (
    HELD_OUT,
    PIXEL_MODES,
    TRAINING,
    ImageFile,
    ImageTree,
    find_images,
    read_header,
    read_images,
)
from workers.pruning.training.preprocessing import Preprocessing, Wish, image_size, infer, network_layout
from workers.pruning.training.samples import Description, Loaded, Samples, StoredRows
from workers.pruning.types import TensorSpec


def describe_images(archive: Archive) -> Description:
    """Describe the images of an upload; every header is read, no pixel is decoded.

    Raises:
        InvalidDataset: an image whose header cannot be read, folders that mean nothing.
    """
    tree = find_images(archive)
    shapes = [read_header(archive, file.member) for file in tree.files]
    return Description(
        labelled=bool(tree.classes),
        num_samples=len(tree.files),
        num_classes=len(tree.classes) or None,
        classes=tree.classes,
        shape=tuple(lengths[0] if len(set(lengths)) == 1 else None for lengths in zip(*shapes, strict=True)),
        dtype="uint8",
        splits=dict(sorted(Counter(file.split for file in tree.files).items())),
        notes=left_out(tree),
    )


def load_images(archive: Archive, inputs: Sequence[TensorSpec], wish: Wish) -> Loaded:
    """Decode the images of an upload as samples of a network.

    Raises:
        InvalidDataset: the network takes no images, or an image cannot be decoded; the first is named.
    """
    tree = find_images(archive)
    size, channels = wanted_size(archive, tree, inputs, wish)
    if not tree.split(TRAINING):
        raise InvalidDataset("There are no training images", allowed=f"images under {TRAINING}/")
    stored = (*size, channels)
    preprocessing = infer(replace(wish, resize=None, layout="NHWC"), inputs[0], stored, np.dtype(np.uint8))
    train, num_resized = load_split(archive, tree, tree.split(TRAINING), stored, preprocessing)
    held_out, more = None, 0
    if tree.split(*HELD_OUT):
        held_out, more = load_split(archive, tree, tree.split(*HELD_OUT), stored, preprocessing)
    if num_resized + more:
        preprocessing = replace(preprocessing, resize=size)
    return Loaded(
        train=train,
        held_out=held_out,
        preprocessing=(preprocessing,),
        classes=tree.classes,
        num_classes=len(tree.classes) or None,
        notes=(*left_out(tree), *resized(num_resized + more, len(tree.files), size)),
    )


def wanted_size(
    archive: Archive, tree: ImageTree, inputs: Sequence[TensorSpec], wish: Wish
) -> tuple[tuple[int, int], int]:
    """Return the (height, width) and the number of channels that images are decoded to."""
    if len(inputs) != 1 or network_layout(inputs[0].shape) is None:
        raise InvalidDataset(
            "Images need a network with one input of rank 4",
            actual=", ".join(f"{spec.name!r} {list(spec.shape)}" for spec in inputs),
            advice="Upload an .npz with one array per input.",
        )
    if wish.layout == "NCHW":
        raise InvalidDataset("Images are always NHWC", where="preprocessing.layout", actual=wish.layout)
    height, width, channels = image_size(inputs[0].shape)
    if channels is not None and channels not in PIXEL_MODES:
        raise InvalidDataset(
            "The network takes no images", actual=f"{channels} channels", allowed=f"{sorted(PIXEL_MODES)} channels"
        )
    asked = wish.resize or (None, None)
    for want, have in zip(asked, (height, width), strict=True):
        if want is not None and have is not None and want != have:
            raise InvalidDataset(
                "resize is not the size that the network takes",
                where="preprocessing.resize",
                actual=list(asked),
                allowed=[height, width],
            )
    found = (height or asked[0], width or asked[1])
    if found[0] is None or found[1] is None:
        return common_size(archive, tree), channels or 3
    return (found[0], found[1]), channels or 3


def common_size(archive: Archive, tree: ImageTree) -> tuple[int, int]:
    """Return the size of all images, for a network that takes any size."""
    sizes = Counter(read_header(archive, file.member)[:2] for file in tree.files)
    if len(sizes) > 1:
        raise InvalidDataset(
            "The images have different sizes and the network takes any size",
            actual=", ".join(str(list(size)) for size, _ in sizes.most_common(3)),
            advice='Say "resize": [height, width] in preprocessing.',
        )
    return next(iter(sizes))


def load_split(
    archive: Archive,
    tree: ImageTree,
    files: Sequence[ImageFile],
    stored: tuple[int, int, int],
    preprocessing: Preprocessing,
) -> tuple[Samples, int]:
    """Decode the images of one split to (height, width, channels); also returns how many were resized."""
    height, width, channels = stored
    pixels, num_resized = read_images(archive, [file.member for file in files], size=(height, width), channels=channels)
    numbers = {name: number for number, name in enumerate(tree.classes)}
    labels = np.array([numbers[file.label] for file in files if file.label is not None], dtype=np.int64)
    samples = Samples(
        rows=(StoredRows(stored=pixels, preprocessing=preprocessing),),
        index=np.arange(len(files), dtype=np.int64),
        labels=labels if tree.classes else None,
        origin=" and ".join(f"{split}/" for split in sorted({file.split for file in files})),
    )
    return samples, num_resized


def left_out(tree: ImageTree) -> tuple[str, ...]:
    """State how many files are not part of the dataset, and a class order that may surprise."""
    notes = []
    if tree.num_ignored:
        notes.append(f"Files that are no images were left out: {tree.num_ignored}.")
    if all(name.isdecimal() for name in tree.classes) and list(tree.classes) != sorted(tree.classes, key=int):
        notes.append(f"Class folders are numbered in the order of their characters: {', '.join(tree.classes)}.")
    return tuple(notes)


def resized(count: int, total: int, size: tuple[int, int]) -> tuple[str, ...]:
    """State how many images were resized."""
    return (f"Resized bilinearly to {size[0]} x {size[1]}: {count} of {total} images.",) if count else ()
