"""What operators do to channels, and that nothing which is not understood is ever cut."""

import onnx_ir as ir
import pytest

from tests.networks import graph
from tests.work import calls
from workers.pruning.groups.find import find
from workers.pruning.groups.propagate import propagate
from workers.pruning.types import Grouping

HEAD = """
net (float[N,3,8,8] x) => (float[N,4] y)
<float[12,3,3,3] a_w, float[12] a_b, float[6,12,1,1] b_w, float[4,{width}] fc_w, float[4] fc_b{more}>
{{
  [a] a0 = Conv <pads = [1,1,1,1]> (x, a_w, a_b)
  [relu] a = Relu (a0)
{body}
  [pool] p = GlobalAveragePool (r)
  [flat] f = Flatten (p)
  [fc] y = Gemm <transB = 1> (f, fc_w, fc_b)
}}
"""
MIXED = "it computes one figure over all channels, which would change if some were removed"


def network(body: str, *, width: int = 12, more: str = "", opset: int = 17) -> Grouping:
    """Group a network with these nodes between its first layer `a` and its head."""
    text = HEAD.format(width=width, more=more, body=body)
    return find(graph(text, header=f'<ir_version: 10, opset_import: ["" : {opset}]>'))


def reasons(grouping: Grouping) -> dict[str, str]:
    """Named nodes and why they stay."""
    return {entry.node: entry.reason for entry in grouping.frozen}


# nodes from `a` to `r`: constants, opset, reason by node
FREEZING = {
    "[m] r = Softmax <axis = 1> (a)": ("", 17, {"m": MIXED}),
    "[m] r = Softmax <axis = 1> (a) # every axis from 1 on": ("", 11, {"m": MIXED}),
    "[m] r = LRN <size = 3> (a)": ("", 17, {"m": MIXED}),
    "[m] r = CumSum (a, one)": (", int64 one = {1}", 17, {"m": MIXED}),
    "[m] q = ArgMax <axis = 1> (a)\n[c] d = Cast <to = 1> (q)\n[s] r = Mul (a, d)": ("", 17, {"m": MIXED}),
    '[m] r = Einsum <equation = "nchw->nchw"> (a)': (
        "", 17, {"m": "it is no product of matrices"},
    ),
    "[m] v, i = TopK <axis = 1> (a, k)\n[s] r = Identity (v)": (
       ", int64[1] k = {12}", 17, {"m": "operator TopK is not followed"}),
    "[m] r = Slice (a, s, e, x1, t)": (
        ", int64[1] s = {11}, int64[1] e = {-13}, int64[1] x1 = {1}, int64[1] t = {-1}", 17,
        {"m": "it takes channels in steps, or backwards"},
    ),
    "[m] q, i = MaxPool <kernel_shape = [1,1]> (a)\n[c] d = Cast <to = 1> (i)\n[s] r = Add (q, d)": (
        "", 17, {"m": "its second output counts positions over all channels"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("body", FREEZING)
def test_what_mixes_or_hides_channels_freezes_them(body: str) -> None:
    """No unit is left, and the node is named with the reason in words."""
    more, opset, expected = FREEZING[body]
    found = network(body.split(" #", maxsplit=1)[0], more=more, opset=opset)

    assert 0 == found.num_units
    assert expected.items() <= reasons(found).items()


HARMLESS = {
    "[m] r = Softmax <axis = -1> (a)": ("", 17),
    "[m] r = InstanceNormalization (a, n_scale, n_b)": (", float[12] n_scale, float[12] n_b", 17),
    "[m] r = GroupNormalization <num_groups = 1> (a, n_scale, n_b)": (", float[12] n_scale, float[12] n_b", 21),
    "[m] r = LayerNormalization <axis = -1> (a, n_scale)": (", float[8] n_scale", 17),
    "[m] q = ReduceMean <axes = [2,3]> (a)\n[s] r = Sub (a, q)": ("", 17),
    "[m] q = ReduceMean <axes = [1]> (a)\n[s] r = Sub (a, q)": ("", 17),
    "[m] r = LpNormalization <axis = 1> (a)": ("", 17),
    "[m] r = MeanVarianceNormalization <axes = [1]> (a)": ("", 17),
    "[m] r = LayerNormalization <axis = 1> (a, n_scale, n_b)": (
       ", float[12,8,8] n_scale, float[12,8,8] n_b", 17),
    "[m] q = Sigmoid (a)\n[s] r = Where (c, a, q)": (", bool[12,1,1] c = {1,0,1,0,1,0,1,0,1,0,1,0}", 17),
    '[m] r = Pad <mode = "reflect"> (a, p0)': (", int64[8] p0 = {0, 0, 1, 1, 0, 0, 1, 1}", 17),
    "[m] q = Dropout (a)\n[s] r = Clip (q, low)": (", float low = {0}", 17),
    "[m] q = Unsqueeze (a, x2)\n[s] r = Squeeze (q, x2)": (", int64[1] x2 = {2}", 17),
    "[m] r = Mod <fmod = 1> (a, two)": (", float two = {2}", 17),
}  # fmt: skip


@pytest.mark.parametrize("body", HARMLESS)
def test_what_leaves_channels_alone_is_followed(body: str) -> None:
    """All twelve channels stay free."""
    more, opset = HARMLESS[body]

    assert [12] == [group.width for group in network(body, more=more, opset=opset).groups]


def test_a_mask_of_one_channel_does_not_tie_those_that_it_scales() -> None:
    """Spatial attention: 12 channels times a plane that one filter makes from them."""
    body = "[g] g0 = Conv (a, g_w)\n[s] g = Sigmoid (g0)\n[m] r = Mul (a, g)"
    found = network(body, more=", float[1,12,1,1] g_w")

    assert [(12, ("a",), ("g", "fc"))] == [(group.width, group.producers, group.consumers) for group in found.groups]
    assert "its channels are tied to channels that stay" == reasons(found)["g"]


def test_a_convolution_with_one_input_channel_is_not_depthwise() -> None:
    """A grey image: the first layer makes its own channels."""
    text = """
    net (float[N,1,8,8] x) => (float[N,4,8,8] y)
    <float[6,1,3,3] a_w, float[4,6,1,1] b_w>
    {
      [a] a = Conv <group = 1, pads = [1,1,1,1]> (x, a_w)
      [b] y = Conv (a, b_w)
    }
    """

    assert [(6, ("a",))] == [(group.width, group.producers) for group in find(graph(text)).groups]


def test_a_sum_with_the_input_freezes() -> None:
    """What is added to an input of the network has its channels."""
    body = "[b] b = Conv (a, g_w)\n[m] q = Add (b, x)\n[s] r = Conv (q, s_w)"
    found = network(body, width=5, more=", float[3,12,1,1] g_w, float[5,3,1,1] s_w")

    assert [12, 5] == [group.width for group in found.groups]
    assert "its channels are tied to channels that stay" == reasons(found)["b"]


@pytest.mark.parametrize(
    ("a", "b", "shapes"),
    [
        (0, 0, "float[6,12] w1, float[4,6] w2"),
        (0, 1, "float[12,6] w1, float[6,4] w2"),
        (1, 0, "float[6,12] w1, float[4,6] w2"),
    ],
)
def test_a_matrix_product_is_followed_on_either_side(a: int, b: int, shapes: str) -> None:
    """Weights to the left or right of the activation, transposed or not: 6 inner positions are 6 units."""
    if b:
        nodes = "[m] h = Gemm (x, w1)\n[r] hr = Relu (h)\n[n] y = Gemm (hr, w2)"
        inputs, outputs = "float[N,12] x", "float[N,4] y"
    else:
        trans = "<transA = 1>" if a else ""
        nodes = f"[m] h = Gemm {trans} (w1, x)\n[r] hr = Relu (h)\n[n] y = Gemm (w2, hr)"
        inputs, outputs = "float[12,5] x", "float[4,5] y"
        if a:
            shapes = "float[12,6] w1, float[4,6] w2"
    found = find(graph(f"net ({inputs}) => ({outputs}) <{shapes}> {{ {nodes} }}"))

    assert [(6, ("m",), ("n",))] == [(group.width, group.producers, group.consumers) for group in found.groups]


def test_an_embedding_makes_its_columns() -> None:
    """Rows of a table picked by index: 8 numbers per word are 8 units."""
    text = """
    net (int64[N,5] x) => (float[N,5,3] y) <float[20,8] table, float[8,3] w>
    {
      [e] e = Gather (table, x)
      [m] y = MatMul (e, w)
    }
    """

    assert [(8, ("e",), ("m",))] == [
        (group.width, group.producers, group.consumers) for group in find(graph(text)).groups
    ]


def test_the_body_of_a_branch_freezes_what_it_reads() -> None:
    """Channels that a subgraph captures stay, and the branch is named."""
    branch = (
        "[m] r = If (c) <then_branch = t () => (float[N,12,8,8] o) { o = Relu (a) },"
        " else_branch = e () => (float[N,12,8,8] o2) { o2 = Tanh (a) }>"
    )
    found = network(f"[n] n = ReduceSum <keepdims = 0> (x)\n[c] c = Cast <to = 9> (n)\n{branch}")

    assert 0 == found.num_units
    assert "operator If is not followed" == reasons(found)["m"]


def test_a_recurrent_layer_freezes_what_it_reads() -> None:
    """The layer before an LSTM keeps its channels; later layers are free again."""
    text = """
    net (float[5,N,6] x) => (float[5,N,3] y)
    <float[6,8] a_w, float[1,16,8] w, float[1,16,4] u, float[4,7] b_w, float[7,3] c_w, int64[1] one = {1}>
    {
      [a] a = MatMul (x, a_w)
      [l] h0 = LSTM <hidden_size = 4> (a, w, u)
      [s] h = Squeeze (h0, one)
      [b] b = MatMul (h, b_w)
      [c] y = MatMul (b, c_w)
    }
    """
    found = find(graph(text))

    assert [(7, ("b",), ("c",))] == [(group.width, group.producers, group.consumers) for group in found.groups]
    assert "operator LSTM is not followed" == reasons(found)["l"]


def residual_chain(blocks: int) -> ir.Model:
    """Blocks of two convolutions and a sum around a stream of eight channels: four nodes for each."""
    lines, names = [], []
    for index in range(blocks):
        lines += [
            f"[a{index}] a{index} = Conv (s{index}, w{index}a)",
            f"[r{index}] r{index} = Relu (a{index})",
            f"[b{index}] b{index} = Conv (r{index}, w{index}b)",
            f"[s{index + 1}] s{index + 1} = Add (b{index}, s{index})",
        ]
        names += [f"float[4,8,1,1] w{index}a, float[8,4,1,1] w{index}b"]
    body = "\n".join(lines)
    text = f"""net (float[N,3,8,8] x) => (float[N,3,8,8] y) <float[8,3,1,1] w, float[3,8,1,1] v, {", ".join(names)}>
    {{ [stem] s0 = Conv (x, w)\n{body}\n[out] y = Conv (s{blocks}, v) }}"""
    return graph(text)


def test_the_work_grows_with_the_length() -> None:
    """Four times as many residual blocks, five thousand nodes, take less than six times as many calls."""
    few, many = residual_chain(312), residual_chain(1250)

    assert calls(lambda: find(many)) < 6 * calls(lambda: find(few))
    assert [8] + [4] * 1250 == [group.width for group in find(many).groups]


def test_labels_of_a_large_image_are_few() -> None:
    """64 channels of 1024 x 1024: labels stay as small as the number of channels."""
    text = """
    net (float[1,3,1024,1024] x) => (float[1,4] y) <float[64,3,3,3] a_w, float[4,64] fc_w>
    {
      [a] a = Conv <pads = [1,1,1,1]> (x, a_w)
      [r] r = Relu (a)
      [p] p = GlobalAveragePool (r)
      [f] f = Flatten (p)
      [fc] y = Gemm <transB = 1> (f, fc_w)
    }
    """
    state = propagate(graph(text))

    assert max(labels.compact.size for labels in state.labels.values()) == 64
