"""Generated pages are never stale."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATE = runpy.run_path(str(ROOT / "docs" / "generate.py"))


@pytest.mark.parametrize("name", sorted(GENERATE["PAGES"]))
def test_a_generated_page_equals_what_the_code_says_now(name: str) -> None:
    """Run `make docs` when this fails."""
    assert GENERATE["PAGES"][name]() == (ROOT / "docs" / name).read_text()
