"""This machine as a stopwatch."""

import pytest

from tests import networks
from workers.pruning.errors import InvalidGraph
from workers.pruning.measure.stopwatch import LocalStopwatch
from workers.pruning.types import TimedNetwork


def question(name, content, key=None):
    """A network, or a layer where there is a key."""
    return TimedNetwork(name=name, content=content, kind="layer" if key else "network", key=key)


def test_layers_are_remembered_by_their_keys():
    """A row that was timed is known afterwards; networks are not rows."""
    watch = LocalStopwatch(layer_seconds=0.05, network_seconds=0.05)
    content = networks.onnx_bytes("chain")

    found = watch.time([question("a", content, "row a"), question("n", content)])

    assert {"a", "n"} == set(found)
    assert {"row a": found["a"].p50_ms} == watch.known()


def test_a_layer_that_does_not_run_is_left_out():
    """The others of the same question are timed."""
    watch = LocalStopwatch(layer_seconds=0.05)
    content = networks.onnx_bytes("chain")

    found = watch.time([question("bad", b"nonsense", "k1"), question("a", content, "k2"), question("b", content, "k3")])

    assert {"a", "b"} == set(found)


def test_a_network_that_does_not_run_is_an_error():
    """The runtime's own words reach the caller."""
    with pytest.raises(InvalidGraph, match="does not load"):
        LocalStopwatch().time([question("n", b"nonsense")])
