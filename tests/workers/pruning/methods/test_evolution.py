"""Regularised evolution: who is in the pool, who leaves it, and what a killed search continues with."""

from dataclasses import replace

import numpy as np
import pytest

from tests.workers.pruning.journals import KeptInMemory, Killed, run_of
from workers.pruning.methods.evolution import Settings, initial, mutated, search

DEVIATIONS = np.array([1.0, 2.0, 0.5, 0.1])
WANTED = np.array([0.7, -1.5, 0.2, 0.0])
SMALL = Settings(evaluations=60, pool=8, sample=4)


def distance(latents):
    """A bowl with its bottom at WANTED."""
    return float(np.square(latents.shift - WANTED).sum() + np.square(np.log(latents.scale)).sum())


def each(worth):
    """Values latents one after the other."""
    return lambda drawn: [worth(latents) for latents in drawn]


def generator():
    return np.random.default_rng(0)


def test_the_identity_is_member_63():
    """The last of the first 64 changes no score, so the plain ranking is always tried; the one before does change."""
    settings = Settings(evaluations=400, affine=True)
    identity = initial(63, DEVIATIONS, settings, generator())
    other = initial(62, DEVIATIONS, settings, generator())

    assert identity.scale.tolist() == [1.0] * 4
    assert identity.shift.tolist() == [0.0] * 4
    assert (other.scale != 1).all()
    assert (other.shift != 0).all()


def test_lcp_evolves_shifts_only():
    """Without the affine form all scales are 1, in the first pool and ever after."""
    found = search(each(distance), DEVIATIONS, SMALL, run_of(), step_name="s")

    assert all(member.latents.scale.tolist() == [1.0] * 4 for member in found.pool)


def test_the_oldest_is_replaced():
    """After 60 evaluations the pool of 8 holds the last eight, however good the earlier ones were."""
    found = search(each(distance), DEVIATIONS, SMALL, run_of(), step_name="s")

    assert [member.number for member in found.pool] == list(range(52, 60))
    assert found.best.loss == min(found.losses)
    assert found.losses[found.best.number] == found.best.loss


def test_few_layers_mutate_too():
    """A tenth of four layers is none; one changes nevertheless, and with 40 layers four do."""
    settings = Settings(evaluations=400)
    for num_layers, expected in ((4, 1), (40, 4)):
        parent = initial(63, np.ones(num_layers), settings, generator())
        child = mutated(parent, np.ones(num_layers), 1.0, settings, generator())
        assert np.count_nonzero(child.shift) == expected


def test_it_finds_a_better_point_than_the_first_pool():
    """On a bowl, mutation of the best of a sample gets closer than chance alone did."""
    found = search(each(distance), DEVIATIONS, Settings(evaluations=400, pool=16, sample=8), run_of(), step_name="s")

    assert found.best.loss < 0.5 * min(found.losses[:16])


def test_it_gives_up_after_patience():
    """When nothing improves on the first member, the search ends ten evaluations behind it, but not before the pool."""
    settings = Settings(evaluations=100, pool=8, sample=4, patience=10)
    found = search(each(lambda _: 1.0), DEVIATIONS, settings, run_of(), step_name="s")

    assert len(found.losses) == 11
    assert found.best.number == 0


def test_not_a_number_is_infinitely_bad():
    """A candidate whose loss cannot be told never becomes the best."""
    losses = iter([float("nan"), 3.0, float("inf"), 2.0])
    found = search(each(lambda _: next(losses)), DEVIATIONS, Settings(evaluations=4, pool=2), run_of(), step_name="s")

    assert found.best.number == 3


@pytest.mark.parametrize("died_at", [5, 20, 21, 45])
def test_a_killed_search_ends_the_same(died_at):
    """Continued from its last record, of every 20 evaluations, a search has the same pool, best and losses."""
    whole = search(each(distance), DEVIATIONS, SMALL, run_of(), step_name="s")
    asked = []

    def dies(latents):
        asked.append(latents)
        if len(asked) == died_at:
            raise Killed
        return distance(latents)

    journal = KeptInMemory()
    with pytest.raises(Killed):
        search(each(dies), DEVIATIONS, SMALL, run_of(journal=journal), step_name="s")
    again = []
    resumed = search(
        each(lambda latents: again.append(latents) or distance(latents)),
        DEVIATIONS,
        SMALL,
        run_of(journal=journal),
        step_name="s",
    )

    assert resumed.losses == whole.losses
    assert [member.number for member in resumed.pool] == [member.number for member in whole.pool]
    assert resumed.best.latents.shift.tolist() == whole.best.latents.shift.tolist()
    assert len(again) == 60 - (died_at - 1) // 20 * 20


def test_a_finished_search_asks_nothing():
    """The second target of a job takes the latents of the first."""
    journal = KeptInMemory()
    first = search(each(distance), DEVIATIONS, SMALL, run_of(journal=journal), step_name="s")
    second = search(
        each(lambda _: pytest.fail("searched again")), DEVIATIONS, SMALL, run_of(journal=journal), step_name="s"
    )

    assert second.best.loss == first.best.loss


@pytest.mark.parametrize("died_at", [3, 30, 41])
def test_broods_lie_at_fixed_numbers(died_at):
    """With eight children of one pool at a time a killed search ends the same, in whatever order they are valued."""
    settings = replace(SMALL, brood=8)
    whole = search(each(distance), DEVIATIONS, settings, run_of(), step_name="s")
    journal, asked = KeptInMemory(), []

    def dies(drawn):
        asked.extend(drawn)
        if len(asked) >= died_at:
            raise Killed
        return [distance(latents) for latents in reversed(drawn)][::-1]

    with pytest.raises(Killed):
        search(dies, DEVIATIONS, settings, run_of(journal=journal), step_name="s")
    resumed = search(each(distance), DEVIATIONS, settings, run_of(journal=journal), step_name="s")

    assert resumed.losses == whole.losses
    assert resumed.best.latents.shift.tolist() == whole.best.latents.shift.tolist()
