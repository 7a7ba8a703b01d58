"""Hostile archives: refused from their directory, or while their bytes are counted, never unpacked."""

import io
import struct
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.workers.pruning.training.uploads import IMAGE_INPUT, archive, folders, npz, picture, refused
from workers.pruning.errors import InvalidDataset
from workers.pruning.training.archives import DataLimits
from workers.pruning.training.data import describe_dataset, open_dataset

GOOD = folders("a", "b")


def entry(name, content=b"x", *, mode=0o100644, flags=0):
    """Give a zip entry with its Unix mode and flag bits."""
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.flag_bits = flags
    return info, content


def crafted(path, *entries):
    """Write a zip with good images and the entries given."""
    file = archive(path, GOOD)
    with warnings.catch_warnings(), zipfile.ZipFile(file, "a") as made:
        warnings.simplefilter("ignore", UserWarning)  # duplicate names
        for info, content in entries:
            made.writestr(info, content)
    return file


def patched(file, find, replace, *, count=-1):
    """Replace bytes of a file, as no honest tool would write them."""
    content = file.read_bytes()
    assert find in content
    file.write_bytes(content.replace(find, replace, count))
    return file


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (entry("../outside.png"), ["'../outside.png'", "relative names"]),
        (entry("a/../../outside.png"), ["outside.png", "relative names"]),
        (entry("/etc/passwd"), ["'/etc/passwd'", "relative names"]),
        (entry("C:/windows.png"), ["'C:/windows.png'", "relative names"]),
        (entry("a\\b.png"), ["backslash"]),
        (entry("a/\x07.png"), ["not printable"]),
        (entry("a/link.png", b"/etc/passwd", mode=0o120777), ["a/link.png", "link or a special file"]),
        (entry("a/device.png", b"", mode=0o020666), ["a/device.png", "link or a special file"]),
        (entry("a/0.png"), ["same name", "a/0.png"]),
        (entry("a/more.zip"), ["another archive", "a/more.zip"]),
        (entry("more.tar.gz"), ["another archive", "more.tar.gz"]),
    ],
)
def test_entries_that_are_not_plain_files_are_refused(tmp_path, made, words):
    """Names that leave the archive, links, devices, duplicates and nested archives are refused by name."""
    file = crafted(tmp_path, made)

    for read in (describe_dataset, lambda path: open_dataset(path, IMAGE_INPUT, seed=0)):
        with pytest.raises(InvalidDataset) as error:
            read(file)
        for word in words:
            assert word in refused(error)


def test_encrypted_members_are_refused(tmp_path):
    """An encrypted member is refused from its flag, without a password being asked for."""
    file = archive(tmp_path, GOOD)
    content = bytearray(file.read_bytes())
    position = content.index(b"PK\x01\x02")
    content[position + 8] |= 1
    file.write_bytes(content)

    with pytest.raises(InvalidDataset, match="encrypted"):
        describe_dataset(file)


def test_unusual_compression_is_refused(tmp_path):
    """Only stored and deflated members are read."""
    file = archive(tmp_path, GOOD, compression=zipfile.ZIP_LZMA)

    with pytest.raises(InvalidDataset, match="zip method 14; allowed stored, deflated"):
        describe_dataset(file)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (DataLimits(max_entries=5), ["too many entries", "6 entries", "at most 5"]),
        (DataLimits(max_directory_bytes=100), ["directory is too large", "at most 100 bytes"]),
        (DataLimits(max_member_bytes=40), ["A member is too large", "at most 40 bytes"]),
        (DataLimits(max_total_bytes=100), ["unpacks to too much", "at most 100 bytes"]),
        (DataLimits(max_image_pixels=60), ["image is too large", "a/0.png", "64 pixels", "at most 60"]),
        (DataLimits(max_decoded_bytes=1000), ["decoded images", "1,152 bytes"]),
    ],
)
def test_limits_are_refusals_with_both_figures(tmp_path, limits, words):
    """What exceeds a limit is refused with the figure found and the figure allowed."""
    with pytest.raises(InvalidDataset) as error:
        open_dataset(archive(tmp_path, GOOD), IMAGE_INPUT, seed=0, limits=limits)

    for word in words:
        assert word in refused(error)


def test_a_long_preprocessing_member_is_refused(tmp_path):
    """Nobody's preprocessing takes 64 kB; two of them contradict each other."""
    with pytest.raises(InvalidDataset, match=r"too long; at preprocessing.json"):
        describe_dataset(archive(tmp_path, GOOD | {"preprocessing.json": b" " * 70_000}))
    with pytest.raises(InvalidDataset, match="several preprocessing members"):
        describe_dataset(archive(tmp_path, GOOD | {"preprocessing.json": b"{}", "a/preprocessing.json": b"{}"}))


def test_archives_with_64_bit_directories_are_read_and_limited(tmp_path, monkeypatch):
    """A directory in zip's 64-bit form, as for more than 65,535 files, is read, and limited by its own counts."""
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    file = archive(tmp_path, GOOD)
    assert b"PK\x06\x07" in file.read_bytes()

    assert describe_dataset(file)["num_samples"] == 6
    with pytest.raises(InvalidDataset, match="6 entries; allowed at most 5 entries"):
        describe_dataset(file, limits=DataLimits(max_entries=5))


def test_bombs_are_refused_by_their_declared_ratio(tmp_path):
    """A member that unpacks to a thousand times its size is refused before it is unpacked."""
    file = archive(tmp_path, GOOD | {"a/bomb.png": bytes(16 << 20)})

    with pytest.raises(InvalidDataset, match=r"compressed too well.*a/bomb.png.*at most 100 : 1"):
        describe_dataset(file)


def test_members_that_hold_more_than_they_declare_are_refused(tmp_path):
    """A directory that lies about a size is found out by counting."""
    file = archive(tmp_path, {"a/0.png": picture(), "b/0.png": picture()}, compression=zipfile.ZIP_STORED)
    size = struct.pack("<L", len(picture()))
    lying = struct.pack("<L", len(picture()) - 10)
    content = file.read_bytes()
    start = content.index(b"PK\x01\x02")
    file.write_bytes(content[:start] + content[start:].replace(size + size, size + lying, 1))

    with pytest.raises(InvalidDataset, match=r"a/0\.png"):
        open_dataset(file, IMAGE_INPUT, seed=0)


def test_damaged_members_are_named(tmp_path):
    """Bytes that do not match their checksum are refused, and the member is named."""
    file = archive(tmp_path, GOOD, compression=zipfile.ZIP_STORED)
    patched(file, b"IDAT", b"IDOT", count=1)

    with pytest.raises(InvalidDataset, match=r"damaged.*a/0.png"):
        open_dataset(file, IMAGE_INPUT, seed=0)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(100), bytes(5000)])
def test_files_that_are_no_zip_are_refused(tmp_path, content):
    """Empty files, text, pickles and headers without a directory are no dataset; the advice says what is."""
    file = tmp_path / "data"
    file.write_bytes(content)

    with pytest.raises(InvalidDataset, match=r"not a readable zip or .npz.*one folder of images per class"):
        describe_dataset(file)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.99])
def test_truncated_archives_are_refused(tmp_path, keep):
    """An upload that was cut off is refused, wherever it was cut."""
    file = npz(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content))])

    with pytest.raises(InvalidDataset):
        describe_dataset(file)


def test_random_damage_is_a_refusal_or_harmless(tmp_path):
    """Whatever byte is damaged, the answer is a dataset or a clear refusal, never another error."""
    file = npz(tmp_path)
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), rng.integers(1, 4)):
            damaged[position] = rng.integers(256)
        file.write_bytes(damaged)
        try:
            open_dataset(file, IMAGE_INPUT, seed=0)
        except InvalidDataset as error:
            assert error.detail


def npy(array, **changes):
    """Write an .npy member by hand, its header changed at will."""
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape} | changes
    text = repr(header).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + array.tobytes()


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (npy(np.zeros(4), shape=(1 << 40, 1 << 20)), ["too large", "x", "at most"]),
        (npy(np.zeros(4), shape=(5,)), ["does not fit its bytes", "x", "32 bytes", "40 bytes for float64[5]"]),
        (npy(np.zeros(4), shape=(-4,)), ["impossible shape", "x"]),
        (npy(np.zeros(4), shape=(1,) * 20 + (4,)), ["impossible shape", "rank <= 8"]),
        (npy(np.zeros(4), descr="|O"), ["x", "object", "never loaded"]),
        (npy(np.zeros(4), descr="<M8[s]"), ["x", "datetime64"]),
        (npy(np.zeros(4), descr="<f16"), ["x", "float128"]),
        (npy(np.zeros(4), descr=[("a", "<f8")]), ["x", "('a', '<f8')"]),
        (npy(np.zeros(4), descr="__import__('os')"), ["x", "not a numpy array"]),
        (b"\x93NUMPY\x09\x00", ["x", "header version", "(9, 0)"]),
        (b"", ["x", "not a numpy array"]),
        (b"\x80\x04K\x01.", ["x", "not a numpy array"]),
    ],
)
def test_arrays_are_judged_by_their_header(tmp_path, member, words):
    """Objects, impossible shapes and headers that contradict the bytes are refused before an element is read."""
    file = archive(tmp_path, {"x.npy": member})

    with pytest.raises(InvalidDataset) as error:
        describe_dataset(file)

    for word in words:
        assert word in refused(error)


def test_pickled_arrays_are_never_loaded(tmp_path):
    """An array of objects, which numpy stores as a pickle, is refused as a dtype."""
    x = np.array([{"a": 1}, None], dtype=object)

    with pytest.raises(InvalidDataset, match=r"dtype.*x; found object.*Pickled objects are never loaded"):
        open_dataset(npz(tmp_path, x=x, y=None), IMAGE_INPUT, seed=0)


@pytest.mark.parametrize("dtype", [">f4", ">i2", "<f2", "?", "<u8"])
def test_arrays_keep_their_values_in_any_byte_order(tmp_path, dtype):
    """Big-endian, half, boolean and integer samples arrive with their values, in C order or Fortran's."""
    x = np.random.default_rng(0).integers(0, 2, (20, 3, 8, 8)).astype(dtype)

    for order in ("C", "F"):
        data = open_dataset(npz(tmp_path, x=np.asarray(x, order=order)), IMAGE_INPUT, seed=0)
        batch = data.train.batch(np.arange(len(data.train)))[0]
        np.testing.assert_array_equal(batch, x[data.train.index].astype(np.float32))


def test_jpeg_orientation_is_ignored(tmp_path):
    """Pixels are taken as they are stored, whatever the EXIF orientation says."""
    image = Image.new("RGB", (8, 8))
    image.paste((255, 255, 255), (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 3  # rotated by 180 degrees
    stream = io.BytesIO()
    image.save(stream, "JPEG", exif=exif, quality=95)

    data = open_dataset(
        archive(tmp_path, {"a.jpg": stream.getvalue(), "b.jpg": stream.getvalue()}), IMAGE_INPUT, seed=0
    )

    pixels = data.train.batch(np.array([0]))[0][0]
    assert pixels[:, 0].min() > 0.9
    assert pixels[:, 7].max() < 0.1


def test_animations_are_refused(tmp_path):
    """An animated WebP is no sample."""
    stream = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (shade,) * 3) for shade in (0, 255)]
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:])

    with pytest.raises(InvalidDataset, match=r"animated.*a.webp"):
        open_dataset(archive(tmp_path, {"a.webp": stream.getvalue()}), IMAGE_INPUT, seed=0)
