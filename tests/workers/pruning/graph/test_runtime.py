"""Networks in ONNX Runtime: what they take and give, what they refuse, inputs drawn for them."""

import numpy as np
import pytest

from tests import networks
from workers.pruning.errors import InvalidGraph, OutOfMemory, UnknownShape
from workers.pruning.graph.runtime import Session, fixed_batch, random_inputs
from workers.pruning.types import TensorSpec

FREE = TensorSpec(name="x", dtype="float32", shape=("N", 3, "H", None))
FIXED = TensorSpec(name="x", dtype="float32", shape=(2, 3, 4, 4))


def test_a_session_says_what_it_takes_and_gives():
    """Names, dtypes and shapes are those of the network, symbolic axes by name."""
    session = Session(networks.onnx_bytes("chain"))

    assert session.inputs == (TensorSpec(name="x", dtype="float32", shape=("N", 3, 8, 8)),)
    assert session.outputs == (TensorSpec(name="y", dtype="float32", shape=("N", 4)),)
    assert fixed_batch(session.inputs) is None


@pytest.mark.parametrize("optimised", [False, True])
def test_optimisation_changes_no_answer(optimised):
    """Optimised or not, the answers are the same but for rounding."""
    content = networks.onnx_bytes("residual")
    plain, other = Session(content, optimised=False), Session(content, optimised=optimised)
    x = random_inputs(plain.inputs, seed=0, batch=2)

    np.testing.assert_allclose(plain.run(x)[0], other.run(x)[0], rtol=1e-4, atol=1e-5)


def test_files_that_are_no_network_are_refused():
    """ONNX Runtime's reason is part of the refusal."""
    with pytest.raises(InvalidGraph, match=r"does not load the network; found .*protobuf"):
        Session(b"no network")


def test_inputs_that_do_not_fit_are_refused_with_their_shapes():
    """The refusal shows what was fed."""
    with pytest.raises(InvalidGraph, match=r"'x': \[1, 4, 8, 8\]"):
        Session(networks.onnx_bytes("chain")).run([np.zeros((1, 4, 8, 8), np.float32)])


def test_tensors_that_cannot_be_allocated_are_out_of_memory():
    """A graph of a few bytes that asks for 32 TiB is refused as too large for this machine, and nothing dies."""
    text = """g (int64[2] shape) => (float[A,B] y) { y = ConstantOfShape(shape) }"""
    session = Session(networks.onnx_bytes(text))

    with pytest.raises(OutOfMemory, match="does not fit into memory"):
        session.run([np.array([1 << 20, 1 << 23])])


def test_drawn_inputs_depend_on_the_seed():
    """The same seed gives the same inputs, another seed others."""
    first, again, other = (random_inputs([FIXED], seed=seed)[0] for seed in (0, 0, 1))

    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("dtype", "largest"), [("uint8", 255), ("int64", 1), ("int32", 1), ("bool", 1), ("float16", 10)]
)
def test_inputs_are_drawn_by_dtype(dtype, largest):
    """Pixels over their range, other integers as indices that every table has, floats about zero."""
    (drawn,) = random_inputs([TensorSpec(name="x", dtype=dtype, shape=("N", 500))], seed=0)

    assert drawn.dtype == np.dtype(dtype)
    assert drawn.shape == (1, 500)
    assert drawn.max() <= largest


def test_shapes_fill_what_the_network_leaves_free():
    """The first free axis is the batch, others come from the shape given; a fixed batch stays."""
    assert random_inputs([FREE], seed=0, shapes={"x": (2, 3, 4, 5)})[0].shape == (2, 3, 4, 5)
    assert random_inputs([FIXED], seed=0, shapes={"x": (1, 3, 4, 4)})[0].shape == (2, 3, 4, 4)
    with pytest.raises(UnknownShape, match=r"axis 2; found \['N', 3, 'H', None\]"):
        random_inputs([FREE], seed=0)
    with pytest.raises(UnknownShape, match=r"found \[2, 3, 5, 4\]; allowed \[2, 3, 4, 4\]"):
        random_inputs([FIXED], seed=0, shapes={"x": (1, 3, 5, 4)})
