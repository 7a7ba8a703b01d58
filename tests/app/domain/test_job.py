"""The table of states."""

import pytest

from app.domain.job import HELD, TERMINAL, TRANSITIONS, JobState, check_transition
from app.errors import IllegalTransition


def test_the_table_knows_every_state() -> None:
    """Each state has its row, and three are final."""
    assert set(TRANSITIONS) == set(JobState)
    assert {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED} == TERMINAL
    assert {JobState.RUNNING, JobState.CANCELLING} == HELD


@pytest.mark.parametrize("before", JobState)
@pytest.mark.parametrize("after", JobState)
def test_only_the_table_decides(before: JobState, after: JobState) -> None:
    """A step is legal exactly if the table has it; the refusal names both states."""
    if after in TRANSITIONS[before]:
        check_transition(before, after)
        return
    with pytest.raises(IllegalTransition, match=f"cannot go from {before} to {after}; legal is"):
        check_transition(before, after)


def test_every_job_can_end() -> None:
    """From every state that is not final a final one can be reached."""
    for state in JobState:
        seen, todo = set[JobState](), [state]
        while todo:
            current = todo.pop()
            seen.add(current)
            todo += [following for following in TRANSITIONS[current] if following not in seen]

        assert seen & TERMINAL


def test_a_cancelled_job_ends_as_cancelled_only() -> None:
    """Whoever cancelled is told one thing."""
    assert TRANSITIONS[JobState.CANCELLING] == {JobState.CANCELLED}
