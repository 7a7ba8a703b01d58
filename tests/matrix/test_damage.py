"""Damaged files end in an analysis or in a refusal by name, each in a process of its own: a few here, many by make."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.matrix.architectures import exported
from tests.networks import onnx_bytes

ROOT = Path(__file__).resolve().parents[2]


def outcomes(files: list[Path], count: int, keep: Path) -> dict[str, object]:
    """What `count` damaged copies of some files end in."""
    command = [sys.executable, "-m", "tests.matrix.damage", *map(str, files), "--count", str(count), "--seed", "1"]
    done = subprocess.run([*command, "--keep", str(keep), "--seconds", "250"], capture_output=True, text=True, cwd=ROOT)
    return json.loads(done.stdout)


def test_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    """Bytes changed, left out, repeated and cut off, and fields that make no sense, in networks of our own."""
    (tmp_path / "attention.onnx").write_bytes(onnx_bytes("attention"))
    (tmp_path / "shufflenet.onnx").write_bytes(exported("shufflenet_v2"))
    (tmp_path / "tagger.onnx").write_bytes(exported("lstm_tagger"))
    told = outcomes(sorted(tmp_path.glob("*.onnx")), 40, tmp_path)

    assert [] == told["unforeseen"]
    assert 40 == told["files"]
    assert told["outcomes"]["invalid-model"] > 10


@pytest.mark.slow
@pytest.mark.data
def test_damaged_foreign_files_are_refused_by_name(tmp_path: Path, data_dir: Path) -> None:
    """The small files of other exporters."""
    files = [data_dir / "zoo" / f"{name}.onnx" for name in ("mnist_cntk", "winml_cifar10", "blazeface_front")]

    assert [] == outcomes(files, 150, tmp_path)["unforeseen"]
