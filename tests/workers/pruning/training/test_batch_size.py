"""The batch that a memory budget holds."""

import pytest

from workers.pruning.errors import OutOfMemory
from workers.pruning.training.batch_size import first, grown, largest, rate_factor
from workers.pruning.training.memory import MemoryModel

MODEL = MemoryModel(parameter_bytes=600, fixed_bytes=400, sample_bytes=10, least_bytes=50)


def test_the_line_and_its_floor():
    """1000 bytes stay whatever the batch; 32 samples add 320, and below 50 bytes of samples the floor counts."""
    assert MODEL.at(32) == 1320
    assert MODEL.at(2) == 1050


def test_the_largest_batch_is_a_multiple_of_eight():
    """1000 + 39 x 10 = 1390 bytes hold 39 samples, so 32; 1049 do not even hold the floor."""
    assert largest(MODEL, 1390) == 32
    assert largest(MODEL, 1049) == 0


def test_the_first_batch_is_the_wanted_one_or_what_fits():
    """128 are wanted; 1390 bytes hold 32, and plenty holds them all."""
    assert first(MODEL, 1390, wanted=128, num_samples=1000) == 32
    assert first(MODEL, 10**6, wanted=128, num_samples=1000) == 128


def test_a_budget_for_less_than_eight_is_refused():
    """Eight samples need 1080 bytes, and the message says so."""
    with pytest.raises(OutOfMemory, match="1080 or more"):
        first(MODEL, 1079, wanted=128, num_samples=1000)


def test_three_samples_make_a_batch_of_three():
    """Where there are fewer than eight samples, all of them are one step."""
    assert first(MODEL, 10**6, wanted=3, num_samples=3) == 3


@pytest.mark.parametrize(
    ("now", "num_samples", "expected"), [(32, 10_000, 64), (32, 400, 40), (64, 400, 64), (1000, 10**6, 1024)]
)
def test_batches_at_most_double_and_never_shrink(now, num_samples, expected):
    """Twice as many, a tenth of the data or 1024, whichever is least; one that is larger already stays."""
    assert grown(MODEL, 10**6, now=now, num_samples=num_samples) == expected


def test_the_rate_follows_the_root_of_the_batch():
    """A batch that doubles raises the rate by 1.41, and none by more than 1.5."""
    assert rate_factor(32, 64) == pytest.approx(2**0.5)
    assert rate_factor(32, 128) == 1.5
