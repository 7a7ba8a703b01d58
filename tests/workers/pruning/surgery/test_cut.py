"""Cut networks: the right numbers left, and the same function as with the units silenced."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.networks import NETWORKS, graph
from tests.torch_networks import NETWORKS as TORCH_NETWORKS
from tests.torch_networks import exported
from tests.workers.pruning.surgery.keeps import random_keep
from workers.pruning.errors import InconsistentGroup
from workers.pruning.graph.load import load
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.weights import weights
from workers.pruning.groups.find import find
from workers.pruning.surgery.check import check
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.mask import mask
from workers.pruning.types import Keep

QUICK = [("legacy", True), ("legacy", False)]
SLOW = [("dynamo", True), ("dynamo", False)]


def agrees(network: bytes | Path, seed: int) -> float:
    """Cut a random keep, check the file, compare with the masked original."""
    original = load(network)
    grouping = find(original)
    keep = random_keep(grouping, seed)
    smaller = cut(original, grouping, keep)
    onnx.checker.check_model(onnx.load_from_string(to_bytes(smaller)), full_check=True)
    return check(mask(original, grouping, keep), smaller, seed=seed, num_inputs=4)


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=5)
@given(seed=st.integers(0, 1000))
def test_cut_equals_masked_on_small_networks(name: str, seed: int) -> None:
    """Whatever is kept, removing units is the same as reading zeros instead of them."""
    network = graph(name)
    grouping = find(network)
    keep = random_keep(grouping, seed)

    assert check(mask(network, grouping, keep), cut(network, grouping, keep), seed=seed, num_inputs=2) < 1e-5


@pytest.mark.parametrize(("exporter", "folded"), QUICK)
@pytest.mark.parametrize("name", TORCH_NETWORKS)
def test_cut_equals_masked_on_legacy_exports(name: str, exporter: str, folded: bool) -> None:
    """Networks of the usual kinds, BatchNormalization kept and folded."""
    assert agrees(exported(name, exporter, folded=folded), 1) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("exporter", "folded"), SLOW)
@pytest.mark.parametrize("name", TORCH_NETWORKS)
def test_cut_equals_masked_on_dynamo_exports(name: str, exporter: str, folded: bool) -> None:
    """The same networks by the new exporter, whose unoptimised files are full of shape arithmetic."""
    assert agrees(exported(name, exporter, folded=folded), 1) < 1e-4


def test_cut_equals_masked_on_a_dynamo_export() -> None:
    """One file by the new exporter, so that the default tier sees its kind."""
    assert agrees(exported("squeeze_excite", "dynamo", folded=False), 1) < 1e-4


@pytest.mark.data
def test_cut_equals_masked_on_files_of_others(data_dir: Path) -> None:
    """Files by seven exporters, opset 7 to 20: none fails, all agree."""
    paths = sorted([*data_dir.glob("zoo/*.onnx"), *data_dir.glob("models/*20_*.onnx"), *data_dir.glob("models/crack*")])

    assert len(paths) >= 10
    for path in paths:
        assert agrees(path, 2) < 1e-2, path.name  # float16 files reach 1e-3, all others 1e-6


def test_weights_keep_the_rows_and_columns_that_stay() -> None:
    """Without units 1 and 5 of the first layer, its filters and the columns of the second are the other six."""
    network = graph("chain")
    grouping = find(network)
    kept = np.ones(grouping.num_units, np.bool_)
    kept[[1, 5]] = False
    before, after = weights(network), weights(cut(network, grouping, Keep(mask=kept)))
    rest = [0, 2, 3, 4, 6, 7]

    assert (before["conv1_w"][rest] == after["conv1_w"]).all()
    assert (before["conv1_b"][rest] == after["conv1_b"]).all()
    assert (before["conv2_w"][:, rest] == after["conv2_w"]).all()
    assert (before["fc_w"] == after["fc_w"]).all()


def test_a_keep_all_cut_changes_nothing() -> None:
    """The file is the same byte for byte."""
    network = graph("shuffle")
    grouping = find(network)

    assert to_bytes(network) == to_bytes(cut(network, grouping, Keep(mask=np.ones(grouping.num_units, np.bool_))))


def test_the_original_stays_as_it_is() -> None:
    """A cut gives a new graph; the bytes of the old one do not change."""
    network = graph("padded_shortcut")
    before = to_bytes(network)
    grouping = find(network)
    keep = random_keep(grouping, 3)
    cut(network, grouping, keep)
    mask(network, grouping, keep)

    assert before == to_bytes(network)


def test_the_batch_stays_free() -> None:
    """The flattened classifier input and the shuffle still take any batch."""
    for name in ("flatten", "shuffle", "attention"):
        network = graph(name)
        grouping = find(network)
        smaller = cut(network, grouping, random_keep(grouping, 4))

        assert [str(value.shape[0]) for value in network.graph.inputs] == [
            str(value.shape[0]) for value in smaller.graph.inputs
        ]


def test_shapes_of_values_are_those_of_the_smaller_network() -> None:
    """An activation that lost two of eight channels says six."""
    network = graph("chain")
    grouping = find(network)
    kept = np.ones(grouping.num_units, np.bool_)
    kept[[1, 5]] = False
    smaller = cut(network, grouping, Keep(mask=kept))
    shapes = {value.name: value.shape for node in smaller.graph for value in node.outputs}

    assert 6 == shapes["r1"][1]


def test_a_keep_of_another_grouping_is_refused() -> None:
    """A mask of the wrong length is our mistake, and named as such."""
    network = graph("chain")
    with pytest.raises(InconsistentGroup, match=r"does not fit.*found \(3,\).*allowed \(20,\)"):
        cut(network, find(network), Keep(mask=np.ones(3, np.bool_)))


def test_a_keep_that_empties_a_tensor_is_refused() -> None:
    """A tensor keeps at least one channel."""
    network = graph("chain")
    grouping = find(network)
    kept = np.ones(grouping.num_units, np.bool_)
    kept[:8] = False
    with pytest.raises(InconsistentGroup, match="empty a tensor"):
        cut(network, grouping, Keep(mask=kept))
