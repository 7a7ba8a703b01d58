"""Steps by the width of the tensors that channels lie in."""

import pytest

from tests.networks import graph
from tests.workers.pruning.allocation.hand import chain, length, term
from workers.pruning.allocation.alignment import blocks_for, steps_for
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.groups.find import find
from workers.pruning.types import CostModel, Length


def model(*macs: object, widths: tuple[int, ...]) -> CostModel:
    """A cost model with these MAC terms only."""
    return CostModel(widths=widths, macs=macs, params=(), size_bytes=(), peak=())  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "step"), [(8, 4), (16, 4), (23, 4), (24, 8), (63, 8), (64, 16), (512, 16)])
def test_wide_tensors_shrink_in_large_steps(width: int, step: int) -> None:
    """16 channels from 64 on, 8 from 24, 4 below."""
    assert (step,) == steps_for(chain(width), None)


def test_a_request_decides_for_all() -> None:
    """`round_to` is the same for every width."""
    assert (2, 2, 2) == steps_for(chain(8, 32, 512), 2)


def test_the_narrowest_tensor_decides() -> None:
    """A stream of 16 that is part of tensors of 16, 32 and 64 channels shrinks by 4, the rest of these by 8 and 16."""
    wide = Length(fixed=0, parts=((0, 1), (1, 1), (2, 1)))
    middle = Length(fixed=0, parts=((0, 1), (1, 1)))
    network = model(term(1.0, length(0)), term(1.0, middle), term(1.0, wide), widths=(16, 16, 32))

    assert (4, 8, 16) == steps_for(network, None)


def test_units_of_several_channels_count_for_all_of_them() -> None:
    """Of pairs, four make eight channels; of triples, no fewer than eight do."""
    pairs, triples = length(0, 2), length(1, 3)
    network = model(term(1.0, pairs), term(1.0, triples), widths=(20, 20))

    assert (4, 8) == steps_for(network, 8)


def test_blocks_stay_filled_from_24_channels_on() -> None:
    """16 of 24 channels and more; of pairs, 8; nothing is asked for where the request decides."""
    assert (1, 16, 16) == blocks_for(chain(16, 24, 512), None)
    assert (8,) == blocks_for(model(term(1.0, length(0, 2)), widths=(20,)), None)
    assert (1, 1, 1) == blocks_for(chain(16, 24, 512), 4)


def test_a_flatten_does_not_ask_for_less() -> None:
    """16 columns per channel behind a Flatten would be aligned at any width, but the convolution before it is not."""
    network = graph("flatten")

    assert (4, 4) == steps_for(cost_model(network, find(network)), None)
