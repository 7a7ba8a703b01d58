"""Scaled dot-product attention as one operator (opset 23 and later)."""

from typing import Final

from torch import Tensor
from torch.nn import functional

from workers.pruning.graph.ops.site import Kernel, Operator, Site

_ALLOWED_OUTPUTS: Final = 1


def attention(site: Site) -> Kernel:
    """softmax(scale * Q K^T + mask) V, by heads; queries may share the heads of keys and values.

    Source: ONNX Attention. Differs: no past keys and values, no soft cap, no second output.
    """
    if site.num_outputs > _ALLOWED_OUTPUTS or any(site.has(index) for index in (4, 5, 6)):
        site.refuse("input or output", "past or present keys and values", "Q, K, V, attn_mask -> Y")
    if site.number("softcap"):
        site.refuse("attribute", f"softcap={site.number('softcap')}", "softcap=0")
    query_heads, key_heads = site.integer("q_num_heads"), site.integer("kv_num_heads")
    causal, scale = bool(site.integer("is_causal")), site.attributes.get("scale")

    def run(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        flat = query.dim() == 3
        if flat:
            query, key, value = (
                part.reshape(*part.shape[:2], heads, -1).transpose(1, 2)
                for part, heads in ((query, query_heads), (key, key_heads), (value, key_heads))
            )
        output = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=causal,
            scale=scale if isinstance(scale, float) else None,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return output.transpose(1, 2).flatten(2) if flat else output

    return run


OPERATORS: Final = {
    "Attention": Operator(
        build=attention, summary="Scaled dot-product attention; without past keys and values and without soft cap."
    ),
}
