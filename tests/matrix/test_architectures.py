"""Every architecture through the engine: found, counted, cut, run, trained."""

import functools

import pytest

from tests.matrix.architectures import ARCHITECTURES, EXPORTERS, exported
from tests.matrix.journey import Analysis, analyse, prune, require_trainable
from workers.pruning.errors import UnsupportedOperator
from workers.pruning.graph.load import load

DYNAMO = [pytest.param(name, marks=pytest.mark.slow) for name in EXPORTERS if name.startswith("dynamo")]
OTHERS = ["legacy_bn", *DYNAMO]


@functools.cache
def analysed(name: str, exporter: str = "legacy") -> Analysis:
    """The analysis of an architecture's file."""
    return analyse(load(exported(name, exporter)))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_is_cut_to_any_share(name: str) -> None:
    """To 70, 50 and 30 % of the MACs or to its minimum, with drawn scores and with norms."""
    analysis = analysed(name)

    assert analysis.grouping.num_units > 0
    for seed, share in enumerate((0.7, 0.5, 0.3)):
        prune(analysis, share, seed=seed)


@pytest.mark.parametrize("exporter", OTHERS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_exports_are_cut_too(name: str, exporter: str) -> None:
    """To half of the MACs, with normalisation kept and by the other exporter; groups are as many as in the first."""
    analysis = analysed(name, exporter)
    prune(analysis, 0.5, seed=1)

    assert sorted(analysis.model.widths) == sorted(analysed(name).model.widths)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "lstm_tagger"])
def test_an_architecture_can_be_trained(name: str) -> None:
    """As it is loaded: the same outputs as in ONNX Runtime, and gradients."""
    require_trainable(analysed(name).graph)


def test_a_recurrent_network_is_pruned_around_its_recurrence() -> None:
    """What the LSTM touches stays and is named; training is refused with the name of the node."""
    analysis = analysed("lstm_tagger")

    assert any(entry.op_type == "LSTM" and "not followed" in entry.reason for entry in analysis.grouping.frozen)
    assert analysis.model.widths == (16,)
    with pytest.raises(UnsupportedOperator, match="LSTM"):
        require_trainable(analysis.graph)
