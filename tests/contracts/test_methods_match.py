"""Options have one truth: what the API validates is what the method takes."""

import inspect

import pytest

from app.domain.methods import LATENCY_METHODS, OPTIONS
from workers.pruning.methods import AIM_AT_LATENCY, METHODS


def test_every_method_of_the_engine_has_options_and_no_other_has() -> None:
    """A method without an options model could not be asked for; one without an engine could not be run."""
    assert set(METHODS) == set(OPTIONS)


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_names_and_defaults_are_equal(name: str) -> None:
    """Each keyword argument of the method is a field of its options model with the same default."""
    parameters = inspect.signature(METHODS[name]).parameters.values()
    taken = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    fields = OPTIONS[name].model_fields
    asked = {key: field.default for key, field in fields.items() if key != "method"}

    assert asked == taken


def test_both_sides_know_which_methods_aim_at_a_latency() -> None:
    """What the service accepts, the engine does; the rest is refused at the door."""
    assert set(LATENCY_METHODS) == set(AIM_AT_LATENCY)
