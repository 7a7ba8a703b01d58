"""Images of an uploaded zip: which file belongs to which split and class, and their pixels as uint8.

EXIF orientation and colour profiles are ignored, alpha is dropped: what training tools read from the same files.
"""

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from workers.pruning.errors import InvalidDataset
from workers.pruning.training.archives import Archive, refuse_above

FORMATS: Final = ("JPEG", "PNG", "WEBP")
SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp"})
REFUSED_SUFFIXES: Final = frozenset({".bmp", ".gif", ".tif", ".tiff", ".heic", ".avif", ".jp2", ".ppm", ".pgm", ".npy"})
TRAINING: Final = "train"
HELD_OUT: Final = ("val", "valid", "validation", "test")
DEEP_MODES: Final = ("I", "F")  # 16 bits and more a channel: Pillow would clip them to 8
PIXEL_MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """One image of the archive: its member, and its place among splits and classes."""

    member: str
    split: str  # "train", "val", "test"
    label: str | None  # name of the class folder


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTree:
    """All images of an archive, sorted by name, and how many other files were left out."""

    files: tuple[ImageFile, ...]
    classes: tuple[str, ...]  # sorted; empty if unlabelled
    folders: tuple[str, ...]  # what lies around the whole dataset and says nothing
    num_ignored: int

    def split(self, *names: str) -> tuple[ImageFile, ...]:
        """Return the images of the splits named."""
        return tuple(file for file in self.files if file.split in names)


def find_images(archive: Archive) -> ImageTree:
    """Assign every image of an archive to a split and a class by its folders.

    Raises:
        InvalidDataset: no image, an image format that is not read, folders that mix two layouts, a held-out class
            that training data lacks.
    """
    members = [name for name in archive.names if is_image(name)]
    if not members:
        raise InvalidDataset(
            "The archive contains no image and no array",
            actual=f"{len(archive.names)} files: {', '.join(archive.names[:5]) or 'none'}",
            allowed=f"images ({', '.join(sorted(SUFFIXES))}) or arrays named x and y",
        )
    folders = common_folders(members)
    paths = {member: PurePosixPath(member).parts[len(folders) :] for member in members}
    tops = {parts[0] for parts in paths.values() if len(parts) > 1}
    files = tuple(place(member, parts, tops) for member, parts in paths.items())
    return ImageTree(
        files=files, classes=class_names(files), folders=folders, num_ignored=len(archive.names) - len(members)
    )


def is_image(name: str) -> bool:
    """Say whether a member is an image that is read here; raises for images that are not."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in REFUSED_SUFFIXES:
        raise InvalidDataset(
            "A file has a format that is not read here", where=name, actual=suffix, allowed=", ".join(sorted(SUFFIXES))
        )
    return suffix in SUFFIXES


def common_folders(members: Sequence[str]) -> tuple[str, ...]:
    """Return the folders around the whole dataset that say nothing: those above classes and splits."""
    folders = [PurePosixPath(member).parts[:-1] for member in members]
    level = 0
    while all(len(parts) > level for parts in folders):
        names = {parts[level] for parts in folders}
        if len(names) > 1 or names & {TRAINING, *HELD_OUT}:
            break
        level += 1
    return folders[0][:level]


def place(member: str, parts: Sequence[str], tops: AbstractSet[str]) -> ImageFile:
    """Place one image by its path below the common folders, given all folders that are there."""
    if TRAINING in tops:
        if parts[0] not in {TRAINING, *HELD_OUT}:
            raise InvalidDataset(
                "A file lies outside the splits",
                where=member,
                allowed=", ".join(f"{s}/" for s in (TRAINING, *HELD_OUT)),
            )
        return ImageFile(member=member, split=parts[0], label=parts[1] if len(parts) > 2 else None)
    for name in HELD_OUT:
        if name in tops:
            raise InvalidDataset(
                f"There is a folder {name}/ and none with training data",
                where=member,
                allowed=f"{TRAINING}/ beside {name}/, or class folders alone",
            )
    return ImageFile(member=member, split=TRAINING, label=parts[0] if len(parts) > 1 else None)


def class_names(files: Sequence[ImageFile]) -> tuple[str, ...]:
    """Return the class folders in sorted order, which numbers them; none if no image lies in one.

    The order is that of torchvision's ImageFolder and Keras: by character, so "10" comes before "2".
    """
    for file in files:
        if (file.label is None) != (files[0].label is None):
            raise InvalidDataset(
                "Some images lie in class folders and some do not",
                where=file.member,
                advice="Put every image into the folder of its class, or none.",
            )
    trained = {file.label for file in files if file.split == TRAINING and file.label is not None}
    for file in files:
        if file.label is not None and file.label not in trained:
            raise InvalidDataset(
                "A held-out class has no training images", where=file.member, actual=file.label, allowed=sorted(trained)
            )
    return tuple(sorted(trained))


def read_header(archive: Archive, member: str) -> tuple[int, int, int]:
    """Return (height, width, channels) of an image from its header; pixels are not decoded.

    Raises:
        InvalidDataset: the file is no image of an allowed format, or has too many pixels.
    """
    with open_image(archive, member) as image:
        return image.height, image.width, 1 if is_grayscale(image) else 3


def read_images(
    archive: Archive, members: Sequence[str], *, size: tuple[int, int], channels: int
) -> tuple[npt.NDArray[np.uint8], int]:
    """Decode images to the network's size and number of channels; also returns how many had another size.

    Images of another size are resized bilinearly (Pillow, with antialiasing); grey and colour are converted.
    Shapes: pixels are (number of members, height, width, channels).

    Raises:
        InvalidDataset: names the first image that cannot be decoded, or all of them are too much.
    """
    shape = (len(members), *size, channels)
    refuse_above(math.prod(shape), archive.limits.max_decoded_bytes, "bytes", "The decoded images take too much memory")
    pixels = np.empty(shape, dtype=np.uint8)
    num_resized = 0
    for row, member in enumerate(members):
        image = decode(archive, member, channels=channels)
        if image.size != (size[1], size[0]):
            image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            num_resized += 1
        pixels[row] = np.asarray(image, dtype=np.uint8).reshape(*size, channels)
    return pixels, num_resized


def decode(archive: Archive, member: str, *, channels: int) -> Image.Image:
    """Decode one image at its own size, with the number of channels asked for."""
    with open_image(archive, member) as image:
        try:
            image.load()
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError) as error:
            raise bad_image(member, str(error)) from error
        if image.mode.startswith(DEEP_MODES):
            raise InvalidDataset(
                "An image has more than 8 bits per channel",
                where=member,
                actual=image.mode,
                advice="Save it with 8 bits, or put the samples into an .npz.",
            )
        return image.convert(PIXEL_MODES[channels])


@contextmanager
def open_image(archive: Archive, member: str) -> Iterator[Image.Image]:
    """Open one image of an allowed format, its pixels still packed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(archive.read(member)), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise bad_image(member, str(error)) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, struct.error) as error:
        raise bad_image(member, f"no readable {', '.join(FORMATS)} image") from error
    with image:
        pixels = image.width * image.height
        refuse_above(pixels, archive.limits.max_image_pixels, "pixels", "An image is too large", member)
        if getattr(image, "n_frames", 1) > 1:
            raise InvalidDataset("An image is animated", where=member, allowed="still images")
        yield image


def is_grayscale(image: Image.Image) -> bool:
    """Say whether an image has one channel, leaving alpha aside."""
    return image.mode in {"1", "L", "LA"} or image.mode.startswith(DEEP_MODES)


def bad_image(member: str, actual: str) -> InvalidDataset:
    """Give the error for an image that cannot be decoded."""
    return InvalidDataset(
        "An image cannot be read",
        where=member,
        actual=actual,
        allowed=", ".join(FORMATS),
        advice="Replace or remove it and upload again.",
    )
