"""The page of coverage says what the code does: a few rows each time, all of them among the slow tests."""

import runpy
from pathlib import Path

import pytest

from tests.matrix.architectures import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[2]
COVERAGE = runpy.run_path(str(ROOT / "docs" / "coverage.py"))
SAMPLED = {"resnet20", "shufflenet_v2", "gpt", "two_tower"}


@pytest.mark.parametrize(
    "name", [name if name in SAMPLED else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES]
)
def test_a_row_is_what_the_code_finds_now(name: str) -> None:
    """Run `make docs` when this fails."""
    assert COVERAGE["architecture_row"](name) in (ROOT / "docs" / "coverage.md").read_text().splitlines()


@pytest.mark.data
def test_rows_of_foreign_files_are_there(data_dir: Path) -> None:
    """A line for every file of the folder."""
    page = (ROOT / "docs" / "coverage.md").read_text()

    assert all(f"| {path.stem} |" in page for path in (data_dir / "zoo").glob("*.onnx"))
