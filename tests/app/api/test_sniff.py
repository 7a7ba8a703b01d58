"""Formats that must not be opened are known by their first bytes; the bytes are those of real writers."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from typing import IO

import numpy as np
import pytest
import torch

from app.api.sniff import HEAD_BYTES, foreign_dataset, foreign_network

MODULE = torch.nn.Sequential(torch.nn.Linear(2, 2))


def head(write: Callable[[IO[bytes]], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()[:HEAD_BYTES]


def save_torchscript(file: IO[bytes]) -> None:
    torch.jit.save(torch.jit.trace(MODULE, torch.ones(1, 2)), file)


def save_pt2(file: IO[bytes]) -> None:
    torch.export.save(torch.export.export(MODULE, (torch.ones(1, 2),)), file)


def save_legacy(file: IO[bytes]) -> None:
    torch.save(MODULE.state_dict(), file, _use_new_zipfile_serialization=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("write", "what"),
    [
        (lambda file: torch.save(MODULE.state_dict(), file), "PyTorch archive"),
        (save_legacy, "Python pickle"),
        (save_torchscript, "PyTorch archive"),
        (save_pt2, "PyTorch archive"),
    ],
)
def test_files_that_carry_code_are_named(write: Callable[[IO[bytes]], object], what: str) -> None:
    """Every format that torch writes is refused as a network and as a dataset, with the way to ONNX."""
    first = head(write)

    network, dataset = foreign_network(first), foreign_dataset(first)

    assert network is not None
    assert what in network.what
    assert "torch.onnx.export" in network.advice
    assert dataset is not None
    assert what in dataset.what


def write_zip(member: str) -> bytes:
    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(member, b"x")

    return head(write)


def write_tar(file: IO[bytes]) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("net.onnx"))


@pytest.mark.parametrize(
    ("first", "what"),
    [
        (gzip.compress(b"x", mtime=0), "gzip data"),
        (head(write_tar), "a tar archive"),
        (write_zip("net.onnx"), "a zip archive"),
        (head(lambda file: np.save(file, np.ones(3))), "a single NumPy array (.npy)"),
        (b"\x1c\x00\x00\x00TFL3", "a TensorFlow Lite file"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00" + b'{"weight"', "a safetensors file: weights without a graph"),
    ],
)
def test_other_formats_are_named_for_a_network(first: bytes, what: str) -> None:
    """A network is one ONNX file; other known formats are refused by name."""
    found = foreign_network(first)

    assert found is not None
    assert found.what == what


@pytest.mark.parametrize(
    "first",
    [
        b"\x08\x07\x12\x07pytorch",  # ir_version 7, producer_name "pytorch": as ONNX files begin
        b"random bytes are for the worker to judge",
        b"",
    ],
)
def test_what_may_be_onnx_passes(first: bytes) -> None:
    """Only what is known to be something else is refused at the door."""
    assert foreign_network(first) is None


@pytest.mark.parametrize("member", ["cat/1.png", "train/cat/1.png", "archive/cat/1.png", "code/1.png", "x.npy"])
def test_zips_of_pictures_and_npz_pass_as_datasets(member: str) -> None:
    """Folders may have any name, those that PyTorch uses included."""
    assert foreign_dataset(write_zip(member)) is None


@pytest.mark.parametrize("first", [b"hello", gzip.compress(b"x", mtime=0), b"PK\x05\x06" + bytes(18), b"\x93NUMPY"])
def test_a_dataset_is_a_zip_or_npz(first: bytes) -> None:
    """Everything else is refused, with the two forms that are taken."""
    found = foreign_dataset(first)

    assert found is not None
    assert ".npz" in found.advice
