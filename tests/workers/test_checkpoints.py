"""Checkpoints on disk: what comes back, what replaces what, and what happens to a damaged one."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from workers.checkpoints import FileJournal, encode, file_name
from workers.pruning.types import Memo

ARRAYS = {
    "floats": np.arange(6, dtype=np.float32).reshape(2, 3),
    "transposed": np.arange(6, dtype=np.float64).reshape(2, 3).T,
    "flags": np.array([True, False]),
    "counts": np.array([2**60], dtype=np.int64),
    "scalar": np.array(2.5),
    "nothing": np.zeros((0, 4), dtype=np.float32),
}


@pytest.fixture
def journal(tmp_path) -> FileJournal:
    """A journal in an empty folder; its announcements are kept in `said`."""
    return FileJournal(folder=tmp_path, emit=said.append)


said: list[dict] = []


@pytest.fixture(autouse=True)
def _silence() -> None:
    said.clear()


def test_a_memo_comes_back_as_it_was(journal) -> None:
    """Arrays keep dtype, shape and bits; the plain state stays plain."""
    state = {"step": 3, "curve": [[1, 0.5], [2, 0.25]], "text": "ä", "none": None}
    journal.record("score", Memo(arrays=ARRAYS, state=state))
    back = journal.recall("score")

    assert state == back.state
    assert set(ARRAYS) == set(back.arrays)
    for name, array in ARRAYS.items():
        assert (array.dtype, array.shape) == (back.arrays[name].dtype, back.arrays[name].shape)
        assert np.array_equal(array, back.arrays[name])


def test_a_step_that_was_never_recorded_is_none(journal) -> None:
    """Nothing recorded, nothing said."""
    assert journal.recall("score") is None
    assert [] == said


def test_a_new_memo_replaces_the_old_one_of_its_step(journal, tmp_path) -> None:
    """One file per step, however often it is recorded: what is kept is bounded by the number of steps."""
    for number in range(5):
        journal.record("finetune", Memo(state={"n": number}))

    assert {"n": 4} == journal.recall("finetune").state
    assert ["finetune.safetensors"] == [path.name for path in tmp_path.iterdir()]
    assert 5 * [{"event": "checkpoint", "step": "finetune", "files": ["finetune.safetensors"]}] == said


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\xff" * len(b), lambda _: encode("other", Memo())]
)
def test_a_damaged_checkpoint_is_ignored_with_a_warning(journal, tmp_path, damage) -> None:
    """Cut, emptied, overwritten or another step's: the step is computed again, and the log says so."""
    journal.record("score", Memo(arrays=ARRAYS))
    path = tmp_path / "score.safetensors"
    path.write_bytes(damage(path.read_bytes()))

    assert journal.recall("score") is None
    assert ("warning", "checkpoint-lost", "score") == (said[-1]["event"], said[-1]["code"], said[-1]["step"])


def test_equal_memos_are_equal_bytes() -> None:
    """The order in which arrays were put in does not show, so the store keeps equal states once."""
    assert encode("a", Memo(arrays=ARRAYS)) == encode("a", Memo(arrays=dict(reversed(ARRAYS.items()))))


@pytest.mark.parametrize("step", ["../../etc/passwd", "a/b", "", ".", "UPPER", "x" * 300, "finetune 3"])
def test_no_step_name_leaves_the_folder(step) -> None:
    """A step that is no plain file name is stored under its digest."""
    assert len(file_name(step)) == 64 + len(".safetensors")
    assert "/" not in file_name(step)


def test_different_steps_have_different_files() -> None:
    """A plain name is its own file name and no digest collides with it."""
    assert "0-finetune.safetensors" == file_name("0-finetune")
    assert file_name("a/b") != file_name("a.b")


def test_a_full_disk_costs_the_checkpoint_and_not_the_job(journal, tmp_path, monkeypatch) -> None:
    """Where there is no room the work goes on, with a warning, and no half file stays."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    journal.record("score", Memo(arrays=ARRAYS))

    assert [] == list(tmp_path.iterdir())
    assert "No space left on device" in said[-1]["message"]


def test_a_kill_between_write_and_rename_leaves_the_old_checkpoint(journal, tmp_path) -> None:
    """A half-written file has another name and is never read."""
    journal.record("score", Memo(state={"n": 1}))
    Path(tmp_path / "score.partial").write_bytes(b"half")

    assert {"n": 1} == journal.recall("score").state
