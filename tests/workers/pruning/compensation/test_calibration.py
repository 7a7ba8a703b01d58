"""How many samples are walked through at a time."""

import pytest

from tests.workers.pruning.seeded import RESIDUAL, images, loaded
from workers.pruning.compensation import calibration
from workers.pruning.compensation.calibration import fitting_inputs
from workers.pruning.compensation.walk import peak_bytes


def lengths(text: str, monkeypatch: pytest.MonkeyPatch, *, room: int) -> list[int]:
    """Lengths of the batches that are taken of 3 x 4 samples when `room` samples fit."""
    graph = loaded(text)
    monkeypatch.setattr(calibration, "MOST_BYTES", room * peak_bytes(graph))
    return [len(part) for part in fitting_inputs([graph], [[images(4)]] * 3, "cpu")["x"]]


@pytest.mark.parametrize(("room", "expected"), [(100, [4, 4, 4]), (6, [4, 2]), (8, [4, 4]), (0, [1])])
def test_samples_are_taken_while_they_fit(room: int, expected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first samples are taken, at least one."""
    assert lengths(RESIDUAL, monkeypatch, room=room) == expected


def test_a_fixed_batch_is_taken_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network with a fixed batch cannot run a part of it; it stops after the batch that fills the room."""
    assert lengths(RESIDUAL.replace("float[N, ", "float[4, "), monkeypatch, room=6) == [4, 4]
