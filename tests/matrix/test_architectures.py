"""Every architecture through the engine: found, counted, cut, run, trained."""

import functools

import pytest

from tests.matrix.architectures import ARCHITECTURES, EXPORTERS, exported
from tests.matrix.journey import Analysis, analyse, prune, require_trainable
from workers.pruning.graph.load import load

# By hand, from the definitions; too coarse a grouping would pass every comparison of outputs.
_C2F = [8, 8, 8, 8, 16]  # passed half, half of the residual chain, two inner widths, output; twice as wide: _WIDE
_WIDE = [16, 16, 16, 16, 32]
_C3K2 = [8, 8, 4, 4, 4, 8]  # passed half, other half, left stream of the inner part, inside of it, right, joined
_WIDE_C3K2 = [16, 16, 8, 8, 8, 16]
WIDTHS = {
    "vgg11": [8, 16, 32, 32, 64, 64, 64, 64, 48],
    "vgg16": [8] * 2 + [16] * 2 + [32] * 3 + [64] * 6 + [48],
    "vgg19": [8] * 2 + [16] * 2 + [32] * 4 + [64] * 8 + [48],
    "resnet18": [8] * 3 + [16] * 3 + [32] * 3 + [64] * 3,  # a stream and two inner widths a stage
    # Zeros widen the stream of one stage into the next: the channels that a stage adds are a group of their own.
    "resnet18_padded": [8] * 3 + [8] + [16] * 2 + [16] + [32] * 2 + [32] + [64] * 2,
    "resnet50": [8, 32, 64, 96] + [8] * 6 + [16] * 4 + [24] * 4,
    "resnet50_padded": [8, 24, 32, 32] + [8] * 6 + [16] * 4 + [24] * 4,
    "resnet20": [8, 8, 16] + [8] * 3 + [16] * 3 + [32] * 3,
    "resnet56": [4, 8, 16] + [4] * 9 + [8] * 9 + [16] * 9,
    "resnet56_padded": [4, 4, 8] + [4] * 9 + [8] * 9 + [16] * 9,
    "wide_resnet": [4, 16, 16, 16, 32, 32, 32],  # the first sum starts at 16, behind a projection
    # 16 channels in 4 groups of 4 go by whole groups, 32 in 4 groups of 8 by position in all groups.
    "resnext": [16, 4, 32, 8, 8, 64],
    "shufflenet_v1": [8, 4, 4, 32],  # 3 groups: positions of the stream, positions of both hidden layers
    # Both blocks: in front, 8 positions of the convolution of groups, squeezed. Streams of 16 and 32.
    "regnet": [16, 8, 8, 4, 8, 8, 4, 32],
    # A channel of the left half and one of the right go together once they are shuffled: 16 pairs, of which 8 pass the
    # next block and 4 of these the one behind; inner widths; the last layer.
    "shufflenet_v2": [8, 8, 4, 4, 16, 16, 16, 48],
    "convnext": [12, 48, 24, 96],  # streams and hidden widths of two stages
    "densenet": [16, *[16, 8] * 3, 20, *[16, 8] * 3],
    "mobilenet_v2": [8, 48, 16, 96, 96, 24, 64],
    "mnasnet": [8, 6, 36, 10, 60, 30, 4, 12, 36, 4, 40],
    "efficientnet_v2": [8, 32, 12, 48, 48, 3, 16, 64, 4, 64],
    # Stem; inner and outer width of the block in front; local; stream of the unfolded patches; positions of heads,
    # whole heads; hidden; lowered, joined; the last layer.
    "mobilevit": [8, 32, 12, 12, 16, 8, 2, 32, 12, 12, 40],
    # A channel goes with its cheap copy; of 16 pairs one has lost its copy to the slice and stands alone.
    "ghostnet": [8, 15, 32],
    # 16 channels in 4 groups that are normalised together; 32 in a single group lose channels one by one.
    "groupnorm_net": [4, 24, 32],
    # Stem; stage (stream, inner); stage (stream, two inner); five, head of the deep level; route; shallow level alike.
    "yolo3": [8, 16, 8, 32, 16, 16, 16, 32, 16, 32, 16, 32, 8, 8, 16, 8, 16, 8, 16],
    "yolo8": [8, 16, *_C2F, 32, *_WIDE, 16, 32, *_C2F, 16, *_WIDE, 16, 16, 16, 16],
    # Stem; stages; blocks as in yolo8 whose inner part is a C3 (left, inside, right, joined); pooled; attention among
    # places: passed half, its stream, positions of keys and of values, hidden; pyramid; heads; whole heads.
    "yolo11": [
        *(8, 16, *_C3K2, 16, 32, *_WIDE_C3K2, 32),
        *(16, 32, 16, 16, 4, 8, 32, 32),
        *(*_C3K2, 16, 16, *_WIDE_C3K2, 32, 16, 16, 16, 16, 2),
    ],
    "espcn": [16, 8, 12],  # 32 channels are blocks of 2 x 2 pixels of 8
    "two_tower": [8, 16],  # one tower, applied twice
    # The stream; a position of the head in queries, keys and values of all heads; hidden; whole heads.
    "vit": [24, 8, 48, 8, 48, 3, 3],
    "deit": [24, 8, 48, 8, 48, 3, 3],
    "bert": [24, 6, 6, 48, 6, 6, 48, 24, 4, 4],  # queries and keys; values; hidden; pooled
    "swin": [16, 8, 32, 8, 32, 32, 2, 2],  # stream; positions and hidden of two blocks; merged; whole heads
    "mixer": [16, 24, 32],  # the stream, hidden positions, which lie across it, hidden channels
    "gpt": [24, 8, 8, 64, 3],
    "llama": [32, 4, 8, 48, 2],  # rotary positions turn dimension i with i + 4; 4 heads share 2 of keys and values
}
DEFAULT = {
    **{name: ("legacy", "legacy_bn")[index % 2] for index, name in enumerate(ARCHITECTURES)},
    "mobilenet_v3": "dynamo",
    "swin": "dynamo_bn",
}
CASES = [
    pytest.param(name, exporter, marks=[] if DEFAULT[name] == exporter else pytest.mark.slow)
    for name in ARCHITECTURES
    for exporter in EXPORTERS
]


@functools.cache
def analysed(name: str, exporter: str = "legacy") -> Analysis:
    """The analysis of an architecture's file."""
    return analyse(load(exported(name, exporter)))


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_an_architecture_is_cut_to_any_share(name: str, exporter: str) -> None:
    """To 70, 50 and 30 % of the MACs or to its minimum, with drawn scores and with norms."""
    analysis = analysed(name, exporter)

    assert analysis.grouping.num_units > 0
    for seed, share in enumerate((0.7, 0.5, 0.3)):
        prune(analysis, share, seed=seed)


@pytest.mark.parametrize("name", WIDTHS)
def test_groups_are_as_fine_as_they_can_be(name: str) -> None:
    """Their widths are those found by hand."""
    assert sorted(WIDTHS[name]) == sorted(analysed(name).model.widths)


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_exporters_give_the_same_groups(name: str, exporter: str) -> None:
    """With BatchNormalization kept or folded, by the legacy and by the dynamo exporter: groups of the same widths."""
    assert sorted(analysed(name).model.widths) == sorted(analysed(name, exporter).model.widths)


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_an_architecture_can_be_trained(name: str, exporter: str) -> None:
    """As it is loaded: the same outputs as in ONNX Runtime, and gradients."""
    require_trainable(analysed(name, exporter).graph)


def test_a_recurrent_network_is_pruned_around_its_recurrence() -> None:
    """What the LSTM touches stays and is named; the layer behind it is pruned."""
    analysis = analysed("lstm_tagger")

    assert any(entry.op_type == "LSTM" and "not followed" in entry.reason for entry in analysis.grouping.frozen)
    assert analysis.model.widths == (16,)
