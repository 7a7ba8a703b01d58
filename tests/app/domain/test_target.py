"""The target in each of its forms, and what is said about one that cannot be read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from app.domain.target import GRAMMAR, MAX_TARGETS, Metric, Target, Targets, parse_target, targets_text
from app.errors import InvalidTarget


@pytest.mark.parametrize(
    ("text", "metric", "ratio", "value"),
    [
        ("flops=50%", "flops", 0.5, None),
        ("macs=62M", "macs", None, 62e6),
        ("params=1.2M", "params", None, 1.2e6),
        ("params=100k", "params", None, 1e5),
        ("flops=1.5G", "flops", None, 1.5e9),
        ("macs=6.2e7", "macs", None, 6.2e7),
        ("size_bytes=2MB", "size_bytes", None, 2e6),
        ("size_bytes=2MiB", "size_bytes", None, 2 * 1024 * 1024),
        ("size_bytes=123456", "size_bytes", None, 123456),
        ("peak_activation_bytes=512KiB", "peak_activation_bytes", None, 524288),
        ("latency=8ms", "latency_ms", None, 8.0),
        ("latency_ms=250us", "latency_ms", None, 0.25),
        ("latency=1s", "latency_ms", None, 1000.0),
        ("  flops = 50 %  ", "flops", 0.5, None),
        ("flops=100%", "flops", 1.0, None),
    ],
)
def test_short_text(text: str, metric: str, ratio: float | None, value: float | None) -> None:
    """A metric, and a share or an amount in a unit (decimal for k, M, G; binary for KiB, MiB, GiB)."""
    (target,) = parse_target(text)

    assert (target.metric, target.ratio, target.value) == (metric, ratio, value)


def test_a_device_follows_an_at_sign() -> None:
    """Latency is asked for on a device; several targets are joined by commas."""
    assert parse_target("flops=50%,latency=8ms@dev_x") == (
        Target(metric=Metric.FLOPS, ratio=0.5),
        Target(metric=Metric.LATENCY_MS, value=8.0, device="dev_x"),
    )


def test_objects_and_lists() -> None:
    """The JSON forms mean the same as the text."""
    half = Target(metric=Metric.FLOPS, ratio=0.5)

    assert parse_target({"metric": "flops", "ratio": 0.5}) == (half,)
    assert parse_target([{"metric": "flops", "ratio": 0.5}, {"metric": "params", "value": 1000}]) == (
        half,
        Target(metric=Metric.PARAMS, value=1000),
    )
    assert parse_target(half) == (half,)


@pytest.mark.parametrize(
    ("text", "position", "offending"),
    [
        ("", 0, "nothing"),
        ("flopz=50%", 0, "'flopz'"),
        ("flops", 5, "nothing"),
        ("flops=", 6, "nothing"),
        ("flops=fifty", 6, "'fifty'"),
        ("flops=50%,", 10, "nothing"),
        ("flops=50%, macz=3M", 11, "'macz'"),
        ("flops=50%,macs=3Q", 16, "'Q'"),
        ("flops=0%", 6, "'0%'"),
        ("flops=101%", 6, "'101%'"),
        ("flops=-5%", 6, "'-5%'"),
        ("flops=0.5", 6, "'0.5'"),
        ("flops=1e999", 6, "'1e999'"),
        ("flops=nan", 6, "'nan'"),
        ("flops=٥٠%", 6, "'٥٠%'"),
        ("latency=8", 9, "nothing"),
        ("size_bytes=3M", 12, "'M'"),
        ("latency=8ms@", 12, "nothing"),
        ("latency=8ms@Phone", 12, "'Phone'"),
        ("flops=50%@dev_x", 9, "'@dev_x'"),
    ],
)
def test_text_that_does_not_parse(text: str, position: int, offending: str) -> None:
    """The refusal states what was found, where, and the whole grammar."""
    with pytest.raises(InvalidTarget) as refusal:
        parse_target(text)

    assert f"found {offending} at position {position}." in str(refusal.value)
    assert str(refusal.value).endswith(GRAMMAR)
    assert (refusal.value.status, refusal.value.code) == (422, "invalid-target")


def test_a_share_that_looks_like_an_amount_is_explained() -> None:
    """Whoever forgets the percent sign is told how to write it."""
    with pytest.raises(InvalidTarget, match="write 50% for a share"):
        parse_target("flops=0.5")


@pytest.mark.parametrize(
    ("given_object", "message"),
    [
        ({"metric": "flops", "ratio": 0}, "/ratio: Input should be greater than 0"),
        ({"metric": "flops", "ratio": 1.01}, "/ratio: Input should be less than or equal to 1"),
        ({"metric": "flops", "ratio": -0.5}, "/ratio: Input should be greater than 0"),
        ({"metric": "flops", "ratio": float("nan")}, "/ratio: Input should be"),
        ({"metric": "flops", "ratio": "0.5"}, "/ratio: Input should be a valid number"),
        ({"metric": "flops", "ratio": True}, "/ratio: Input should be a valid number"),
        ({"metric": "flops", "value": float("inf")}, "/value: Input should be a finite number"),
        ({"metric": "flops"}, "Give either ratio or value"),
        ({"metric": "flops", "ratio": 0.5, "value": 3}, "Give either ratio or value"),
        ({"metric": "watts", "ratio": 0.5}, "/metric: Input should be 'flops', 'macs'"),
        ({"metric": "flops", "ratio": 0.5, "rate": 1}, "/rate: Extra inputs are not permitted"),
        ({"metric": "macs", "ratio": 0.5, "device": "dev_x"}, "A device belongs to a latency_ms target only"),
        ({}, "/metric: Field required"),
    ],
)
def test_objects_that_are_not_targets(given_object: dict[str, object], message: str) -> None:
    """Each wrong field is named; ratios are in (0, 1]."""
    with pytest.raises(InvalidTarget) as refusal:
        parse_target(given_object)

    assert message in str(refusal.value)
    assert GRAMMAR in str(refusal.value)


@pytest.mark.parametrize("thing", [None, 5, 0.5, True, b"flops=50%", [], [3], ["flops=50%"], [{}] * (MAX_TARGETS + 1)])
def test_things_that_are_not_targets(thing: object) -> None:
    """Whatever JSON can hold instead of a target is refused in the same way."""
    with pytest.raises(InvalidTarget):
        parse_target(thing)


def test_a_metric_is_named_once() -> None:
    """Two limits of one metric contradict each other or say the same."""
    with pytest.raises(InvalidTarget, match="names flops twice"):
        parse_target("flops=50%,flops=40%")


def test_long_texts_are_refused_before_they_are_read() -> None:
    """A target of a megabyte costs nothing."""
    with pytest.raises(InvalidTarget, match="1000000 characters; allowed are 1000"):
        parse_target("," * 1_000_000)
    with pytest.raises(InvalidTarget, match="20 parts; allowed are 16"):
        parse_target(",".join(["flops=50%"] * 20))


amounts = st.floats(min_value=1.001, max_value=1e15).map(lambda value: float(f"{value:.12g}"))
ratios = st.integers(1, 100_000).map(lambda thousandths: thousandths / 100_000)
targets = st.one_of(
    st.builds(Target, metric=st.sampled_from(Metric), ratio=ratios),
    st.builds(Target, metric=st.sampled_from(Metric), value=amounts),
    st.builds(Target, metric=st.just(Metric.LATENCY_MS), value=amounts, device=st.just("dev_local")),
)


@given(st.lists(targets, min_size=1, max_size=6, unique_by=lambda target: (target.metric, target.device)))
def test_the_text_of_targets_parses_to_them(given_targets: list[Target]) -> None:
    """targets_text and parse_target are inverse to each other."""
    parsed = parse_target(targets_text(given_targets))

    assert [(t.metric, t.device, t.value) for t in parsed] == [(t.metric, t.device, t.value) for t in given_targets]
    assert [t.ratio for t in parsed] == pytest.approx([t.ratio for t in given_targets])


@given(st.text(max_size=40))
def test_no_text_breaks_the_parser(text: str) -> None:
    """Any text is a target or an InvalidTarget."""
    try:
        parsed = parse_target(text)
    except InvalidTarget:
        return

    assert all(isinstance(target, Target) for target in parsed)


def test_limits_are_in_the_metrics_own_unit() -> None:
    """A ratio limits a share of what was; a value limits by itself."""
    assert Target(metric=Metric.MACS, ratio=0.5).limit(124e6) == 62e6
    assert Target(metric=Metric.MACS, value=62e6).limit(124e6) == 62e6


def test_the_schema_on_the_wire_describes_target() -> None:
    """The schema that is written out by hand has the fields, metrics and patterns of the class."""
    wire = TypeAdapter(Targets).json_schema(mode="validation")
    own = Target.model_json_schema()
    (shown,) = [form for form in wire["anyOf"] if form["type"] == "object"]

    assert set(shown["properties"]) == set(own["properties"])
    assert shown["properties"]["metric"]["enum"] == own["$defs"]["Metric"]["enum"]
    assert shown["properties"]["device"]["pattern"] in json.dumps(own["properties"]["device"])
    assert shown["additionalProperties"] is False
