"""Matrix products and normalisations give what ONNX Runtime gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.pruning.graph.single import assert_agrees, normal

SMALL = st.integers(1, 5)


@st.composite
def gemms(draw: st.DrawFn):
    m, n, k = draw(SMALL), draw(SMALL), draw(SMALL)
    a_turned, b_turned = draw(st.booleans()), draw(st.booleans())
    a = normal([k, m] if a_turned else [m, k])
    b = normal([n, k] if b_turned else [k, n], 1)
    c = draw(st.sampled_from([None, [n], [1, n], [m, 1], [m, n], []]))
    attributes = {"transA": int(a_turned), "transB": int(b_turned)}
    attributes |= {name: draw(st.sampled_from([1.0, 0.5])) for name in ("alpha", "beta")}
    return [a, b] if c is None else [a, b, normal(c, 2)], attributes


@given(gemms(), st.sampled_from([9, 11, 17]))
def test_gemm_agrees(case, opset):
    """Any transposes, factors and form of the bias, trained or computed."""
    inputs, attributes = case
    opset = opset if len(inputs) == 3 else max(opset, 11)  # the bias became optional

    assert_agrees("Gemm", inputs, attributes, constants=range(1, len(inputs)), opset=opset)


@given(st.sampled_from([([3], [3]), ([2, 3], [3, 4]), ([2, 3], [3]), ([5, 1, 2, 3], [4, 3, 2]), ([3], [2, 3, 4])]))
def test_matrix_product_agrees(shapes):
    """Vectors, matrices and broadcast stacks of matrices."""
    assert_agrees("MatMul", [normal(shapes[0]), normal(shapes[1], 1)])


@pytest.mark.parametrize("equation", ["bij,bjk->bik", "bhid,bhjd->bhij", "ij->ji", "b i d , d k -> b i k", "...ij,jk"])
def test_einsum_agrees(equation):
    """Equations of attention and of linear layers."""
    shapes = {
        "bij,bjk->bik": ([2, 3, 4], [2, 4, 5]),
        "bhid,bhjd->bhij": ([2, 2, 3, 4], [2, 2, 5, 4]),
        "ij->ji": ([3, 4],),
        "b i d , d k -> b i k": ([2, 3, 4], [4, 5]),
        "...ij,jk": ([2, 3, 4], [4, 5]),
    }[equation]

    assert_agrees("Einsum", [normal(shape, seed) for seed, shape in enumerate(shapes)], {"equation": equation})


def _statistics(channels: int) -> list[np.ndarray]:
    return [normal([channels], 1), normal([channels], 2), normal([channels], 3), np.abs(normal([channels], 4)) + 0.1]


@given(st.integers(0, 3), st.sampled_from([7, 9, 14, 15, 17]), st.sampled_from([1e-5, 1e-2]))
def test_batch_normalization_agrees(axes, opset, epsilon):
    """Running statistics at inference, over any number of axes, in every version."""
    x = normal([3, 4, *[5] * axes])

    assert_agrees("BatchNormalization", [x, *_statistics(4)], {"epsilon": epsilon}, constants=range(1, 5), opset=opset)


def test_batch_normalization_that_asks_for_batch_statistics_agrees():
    """training_mode=1 in an uploaded graph uses batch statistics at inference as well."""
    attributes = {"training_mode": 1, "momentum": 0.8}

    assert_agrees(
        "BatchNormalization",
        [normal([3, 4, 5, 5]), *_statistics(4)],
        attributes,
        constants=(1, 2),
        opset=15,
        num_outputs=3,
    )


@given(st.integers(1, 3))
def test_instance_normalization_agrees(axes):
    """Each channel of each sample by itself."""
    assert_agrees("InstanceNormalization", [normal([2, 4, *[6] * axes]), normal([4], 1), normal([4], 2)])


def test_group_normalization_agrees():
    """One scale per channel."""
    inputs = [normal([2, 6, 4, 4]), normal([6], 1), normal([6], 2)]

    assert_agrees("GroupNormalization", inputs, {"num_groups": 2}, opset=21)


@given(st.sampled_from([-1, -2, 1, 2]), st.booleans(), st.integers(1, 3))
def test_layer_normalization_agrees(axis, biased, num_outputs):
    """Any axis, with and without bias, with the optional mean and inverse deviation."""
    x = normal([2, 3, 4])
    shape = x.shape[axis:]
    inputs = [x, normal(shape, 1), *([normal(shape, 2)] if biased else [])]

    assert_agrees("LayerNormalization", inputs, {"axis": axis}, num_outputs=num_outputs)


def test_rms_normalization_agrees():
    """Division by the root mean square."""
    assert_agrees("RMSNormalization", [normal([2, 3, 8]), normal([8], 1)], {"axis": -1}, opset=23)


@given(st.sampled_from([1, 2]), st.sampled_from([-1, 1]))
def test_lp_normalization_agrees(order, axis):
    """L1 and L2 along an axis."""
    assert_agrees("LpNormalization", [normal([2, 3, 4])], {"p": order, "axis": axis})


@given(st.integers(1, 6), st.sampled_from([1e-4, 0.5]), st.sampled_from([0.75, 1.5]))
def test_local_response_normalization_agrees(size, alpha, beta):
    """Odd and even neighbourhoods."""
    size -= (size + 1) % 2  # ONNX Runtime takes odd sizes only

    assert_agrees("LRN", [normal([2, 7, 3, 3])], {"size": max(size, 1), "alpha": alpha, "beta": beta, "bias": 2.0})


@pytest.mark.parametrize("attributes", [{}, {"is_causal": 1}, {"scale": 0.3}])
def test_attention_agrees(attributes):
    """With and without a mask, causal or not, by a given scale, with shared heads, and with heads in the last axis."""
    query, key, value = normal([2, 4, 5, 8]), normal([2, 2, 6, 8], 1), normal([2, 2, 6, 8], 2)
    flat = [normal([2, 5, 32]), normal([2, 6, 16], 1), normal([2, 6, 16], 2)]
    heads = {"q_num_heads": 4, "kv_num_heads": 2}

    assert_agrees("Attention", [query, key, value], attributes, opset=23)
    assert_agrees("Attention", flat, attributes | heads, opset=23)
    if "is_causal" not in attributes:
        assert_agrees("Attention", [query, key, value, normal([5, 6], 3)], attributes, opset=23)
