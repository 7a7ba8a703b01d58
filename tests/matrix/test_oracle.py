"""The page that compares groups with Torch-Pruning's says what both find now."""

from pathlib import Path

import pytest

from benchmarks import oracle

PAGE = Path(__file__).resolve().parents[2] / "docs" / "oracle.md"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "resnet50_padded", "regnet", "mobilenet_v3", "ghostnet", "yolo8"])
def test_a_row_is_what_both_find_now(name: str) -> None:
    """Run `python -m benchmarks.oracle` when this fails; it asks for a reason where a difference is new."""
    pytest.importorskip("torch_pruning", reason="a development-time oracle: pip install -e .[oracle]")

    assert oracle.row(name) in PAGE.read_text().splitlines()


def test_every_difference_has_a_reason() -> None:
    """A row with groups that only one side has says why."""
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]

    assert len(rows) > 40
    assert [] == [row[0] for row in rows if row[2] != "refuses" and (row[4], row[5]) != ("0", "0") and len(row[6]) < 20]
