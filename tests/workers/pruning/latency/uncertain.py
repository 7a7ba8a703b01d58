"""Devices of which the rows of a latency table tell less than the truth: what a network takes follows another law."""

from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from tests.workers.pruning.latency.laws import LawDevice, measurement

SAMPLES = 32
KINDS = ("convolution", "pointwise", "grouped", "Gemm", "other")


@dataclass
class UncertainDevice(LawDevice):
    """A device drawn from a seed, on which networks do not take the sum of their layers.

    Every kind of operator takes up to twice or half of what it takes alone, every node costs a fixed time besides,
    widths that are no multiples of a step cost more, each question is answered at another pace (other programs come and
    go), and every sample is off by about 2 %.
    """

    seed: int = 0
    node_ms: float = 0.0
    step: int = 8
    off_step: float = 1.0  # on widths that are no multiples of the step
    factors: dict[str, float] = field(default_factory=dict)
    noise: float = 0.02
    pace: float = 0.2

    @classmethod
    def drawn(cls, seed):
        """Draw a device."""
        rng = np.random.default_rng([seed, 5])
        return cls(
            seed=seed,
            block=int(rng.choice([4, 8, 16])),
            step=int(rng.choice([8, 16])),
            off_step=float(rng.uniform(1.0, 1.5)),
            dense_ns=float(0.02 * 3 ** rng.uniform(-1, 1)),
            grouped_ns=float(0.2 * 3 ** rng.uniform(-1, 1)),
            element_ns=float(0.3 * 3 ** rng.uniform(-1, 1)),
            call_ms=float(rng.uniform(0.001, 0.02)),
            node_ms=float(rng.uniform(0.0, 0.002)),
            factors={kind: float(2 ** rng.uniform(-1, 1)) for kind in KINDS},
        )

    def __post_init__(self):
        """Start the noise."""
        self._rng = np.random.default_rng([self.seed, 6])

    def time(self, networks):
        """Answer a question, with noise."""
        pace = float(1 + self._rng.uniform(-self.pace, self.pace))
        found = {}
        for network in networks:
            self.asked[network.kind] += 1
            alone = network.kind == "layer"
            ms = pace * (self.call_ms + self.law(network.content) if alone else self.truth(network.content))
            samples = ms * (1 + self.noise * self._rng.standard_normal(SAMPLES))
            middle = float(np.median(samples))
            found[network.name] = replace(measurement(middle), samples_ms=tuple(samples.tolist()))
            if alone:
                self.rows[network.key] = middle
        return found

    def truth(self, content):
        """What a network takes on this device, without noise."""
        whole = replace(self, rows={})
        whole.__class__ = _Whole
        return self.call_ms + whole.law(content)

    def nanoseconds(self, node, shapes):
        """One node by itself."""
        ns = super().nanoseconds(node, shapes)
        if node.op_type != "Conv":
            return ns
        widths = (shapes[node.input[0]][1], shapes[node.output[0]][1])
        return ns * (self.off_step if any(width % self.step for width in widths if width > 3) else 1.0)


class _Whole(UncertainDevice):
    """The same device on a network as a whole."""

    def nanoseconds(self, node, shapes):
        """One node among the others."""
        return self.factors[kind_of(node, shapes)] * super().nanoseconds(node, shapes) + 1e6 * self.node_ms


def kind_of(node, shapes):
    """The kind of operator that has a factor of its own."""
    if node.op_type != "Conv":
        return node.op_type if node.op_type == "Gemm" else "other"
    weight = shapes[node.input[1]]
    if weight[1] == 1:
        return "grouped"
    return "convolution" if prod(weight[2:]) > 1 else "pointwise"
