"""Identifiers and digests."""

import pytest

from app.ids import is_digest, is_id, new_id


def test_ids_sort_by_time_and_do_not_repeat() -> None:
    """A thousand ids in a row are distinct and of one shape."""
    made = [new_id("job") for _ in range(1000)]

    assert len(set(made)) == 1000
    assert all(is_id(text, "job") and len(text) == 30 for text in made)


@pytest.mark.parametrize(
    "text", ["", "job_", "mdl_" + "0" * 26, "job_" + "0" * 25, "job_" + "O" * 26, "job_" + "0" * 26 + "\n"]
)
def test_what_is_no_job_id(text: str) -> None:
    """Another prefix, another length, letters that the alphabet leaves out."""
    assert not is_id(text, "job")


@pytest.mark.parametrize(
    ("text", "fits"), [("a" * 64, True), ("A" * 64, False), ("a" * 63, False), ("a" * 64 + "\n", False)]
)
def test_digests_are_lower_case_hexadecimal(text: str, fits: bool) -> None:
    """64 characters, nothing else."""
    assert is_digest(text) is fits
