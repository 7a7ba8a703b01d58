"""Job requests: what is asked for, what is chosen where nothing is asked, what is refused and with which pointer."""

from typing import Any

import pytest

from app.domain.methods import (
    METHOD_NAMES,
    OPTIONS,
    AutoOptions,
    JobSpec,
    MagnitudeOptions,
    RandomOptions,
    parse_spec,
)
from app.domain.target import Metric, Target
from app.errors import FieldError, InvalidTarget, ValidationFailed

LEAST = {"model": "mdl_1", "target": "flops=50%"}


def test_the_least_request() -> None:
    """A model and a target are enough; everything else has a default."""
    spec = parse_spec(LEAST)

    assert spec.target == (Target(metric=Metric.FLOPS, ratio=0.5),)
    assert (spec.method, spec.options, spec.seed, spec.export.min_keep) == ("auto", AutoOptions(), 0, 0.1)
    assert spec.target_sets == (spec.target,)


def test_what_is_stored_is_read_back_equal() -> None:
    """The JSON of a request is a request that means the same."""
    spec = parse_spec(
        {
            **LEAST,
            "dataset": "dst_1",
            "method": "magnitude",
            "options": {"norm": "l1"},
            "preprocessing": {"mean": [0.5], "std": [0.2], "resize": [32, 32], "layout": "NHWC"},
            "finetune": {"steps": 0},
            "export": {"round_to": 8},
            "exclude": ["head.*"],
            "metadata": {"a": "b"},
            "seed": 7,
        }
    )
    stored = spec.model_dump(mode="json")

    assert parse_spec(stored) == spec
    assert stored["options"] == {"norm": "l1", "alpha": 0.0, "compensate": True}


@pytest.mark.parametrize(
    ("method", "options"), [("auto", AutoOptions), ("magnitude", MagnitudeOptions), ("random", RandomOptions)]
)
def test_options_belong_to_the_method(method: str, options: type) -> None:
    """Without options, those of the method are taken with their defaults."""
    assert type(parse_spec({**LEAST, "method": method}).options) is options
    assert set(OPTIONS) == set(METHOD_NAMES)


def test_several_artifacts_in_one_job() -> None:
    """`targets` asks for one artifact per entry, each in any form of a target."""
    spec = parse_spec({"model": "mdl_1", "targets": ["flops=50%", [{"metric": "params", "ratio": 0.3}]]})

    assert [targets[0].metric for targets in spec.target_sets] == ["flops", "params"]


@pytest.mark.parametrize(
    ("changes", "pointer", "message"),
    [
        ({"model": "dst_1"}, "/model", "String should match pattern"),
        ({"model": None}, "/model", "Input should be a valid string"),
        ({"method": "taylor2"}, "/method", "Input should be 'auto', "),
        ({"options": {"probs": 1}}, "/options/probs", "Extra inputs are not permitted"),
        ({"options": {"probes": 0}}, "/options/probes", "greater than or equal to 1"),
        ({"options": {"method": "random"}}, "", "options are for another method"),
        ({"method": "random", "options": {"probes": 4}}, "/options/probes", "Extra inputs are not permitted"),
        ({"finetune": {"steps": -1}}, "/finetune/steps", "greater than or equal to 0"),
        ({"finetune": {"steps": 1, "epochs": 1}}, "/finetune", "Give steps or epochs, not both"),
        ({"finetune": {"temperature": float("nan")}}, "/finetune/temperature", "Input should be"),
        ({"export": {"min_keep": 1.5}}, "/export/min_keep", "less than or equal to 1"),
        ({"preprocessing": {"std": [0.2, 0.0]}}, "/preprocessing/std/1", "greater than 0"),
        ({"preprocessing": {"resize": [32]}}, "/preprocessing/resize/1", "Field required"),
        ({"seed": 2**63}, "/seed", "less than"),
        ({"seed": -1}, "/seed", "greater than or equal to 0"),
        ({"metadata": {"k": "v" * 513}}, "/metadata/k", "at most 512 characters"),
        ({"webhook": "https://example.org"}, "/webhook", "Extra inputs are not permitted"),
        ({"targets": ["flops=50%"]}, "", "Give either target or targets"),
        ({"target": None}, "", "Give either target or targets"),
        ({"method": "dynhp", "finetune": {"steps": 0}}, "/finetune/steps", "dynhp cuts while it trains"),
    ],
)
def test_wrong_fields_are_pointed_at(changes: dict[str, Any], pointer: str, message: str) -> None:
    """Each refusal has the JSON pointer of the field on the wire and says what is allowed."""
    with pytest.raises(ValidationFailed) as refusal:
        parse_spec({**LEAST, **changes})
    (error,) = refusal.value.errors

    assert error.pointer == pointer
    assert message in error.message


def test_a_wrong_target_alone_is_an_invalid_target() -> None:
    """Then the answer is about the target, grammar included; with other errors it is one entry of several."""
    with pytest.raises(InvalidTarget, match="The grammar is"):
        parse_spec({**LEAST, "target": "half"})
    with pytest.raises(InvalidTarget) as refusal:
        parse_spec({"model": "mdl_1", "targets": ["flops=50%", "half"]})

    assert refusal.value.errors[0].pointer == "/targets/1"
    with pytest.raises(ValidationFailed) as mixed:
        parse_spec({"model": "x", "target": "half"})

    assert {error.pointer for error in mixed.value.errors} == {"/model", "/target"}
    assert not isinstance(mixed.value, InvalidTarget)


@pytest.mark.parametrize("thing", [None, [], "text", 3])
def test_things_that_are_not_requests(thing: object) -> None:
    """A body that is no object is refused as a whole."""
    with pytest.raises(ValidationFailed) as refusal:
        parse_spec(thing)

    assert refusal.value.errors == (FieldError(pointer="", message=refusal.value.errors[0].message),)


def test_a_request_is_frozen() -> None:
    """What was accepted cannot change."""
    spec = parse_spec(LEAST)
    with pytest.raises(ValueError, match="frozen"):
        spec.seed = 1  # type: ignore[misc]


def test_the_schema_can_be_shown() -> None:
    """The JSON schema exists and names every field: OpenAPI is made of it."""
    assert set(JobSpec.model_json_schema()["properties"]) == set(JobSpec.model_fields)


def test_an_allowed_drop_alone_is_a_question() -> None:
    """Without a target there is one artifact, and nothing that it must hold but the accuracy."""
    spec = parse_spec({"model": "mdl_1", "max_accuracy_drop": 0.03})

    assert spec.target_sets == ((),)
