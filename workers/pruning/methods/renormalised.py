"""A network whose folded convolutions have their BatchNormalization back, and its units, numbered as before."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import onnx_ir as ir

from workers.pruning.graph.renormalise import SUFFIX
from workers.pruning.types import Grouping, InitializerAxis, IntArray, Role


def extended(grouping: Grouping, original: ir.Model, names: Sequence[str]) -> Grouping:
    """Give the grouping of `renormalise.insert(original, {name: ... for name in names})`, units numbered alike.

    What the inserted nodes hold and give has the channels of the convolution's output. Their shift needs no entry where
    the convolution had a bias: it is that bias.
    """
    outputs = {node.name or "": node.outputs[0].name or "" for node in original.graph}
    axes: list[InitializerAxis] = []
    values: list[dict[str, Mapping[int, IntArray]]] = [dict(grouping.value_axes), dict(grouping.head_axes)]
    for name, by_value in product(names, values):
        units = by_value.get(outputs[name], {}).get(1)
        if units is None or not np.any(units >= 0):
            continue
        by_value[f"{outputs[name]}{SUFFIX}"] = {1: units}
        axes += [
            InitializerAxis(
                initializer=f"{name}{SUFFIX}/{part}", axis=0, node=f"{name}{SUFFIX}", role=Role.THROUGH, units=units
            )
            for part in ("scale", "mean", "variance")
        ]
    inside, heads = values
    return replace(grouping, initializer_axes=(*grouping.initializer_axes, *axes), value_axes=inside, head_axes=heads)
