"""What the alignment of widths is worth by itself: the same share of MACs, widths at random or multiples of 4, 8, 16.

    python -m benchmarks.latency_alignment [--networks vgg16 mobilenetv2] [--steps 1 4 8 16] [--ratio 0.5]

No scores and no allocation: each group keeps the same share of its channels, give or take a fifth at random, rounded to
the step, which is halved for groups too narrow to hold three steps. So rows differ in alignment, hardly in anything
else. All variants of a network are timed in turn with it, one thread, batch 1. Ratios only: latency of the variant over
latency of the original, with the 95 % interval of the median of rounds, and beside it the ratio of processor times,
which other programs on the machine disturb less. Why a latency is not stable is printed below the table.
"""

import argparse
import contextlib
import io
import math

import numpy as np
import onnx_ir as ir

from benchmarks.networks import MobileNetV2, Vgg16, export, seeded
from benchmarks.setting import host_line, table
from workers.pruning.allocation.budget import cost as predicted
from workers.pruning.graph import cost, load, save
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.groups.find import find
from workers.pruning.measure.latency import measure
from workers.pruning.measure.stats import compare
from workers.pruning.surgery.cut import cut
from workers.pruning.types import Grouping, Keep

BUILDERS = {"vgg16": Vgg16, "mobilenetv2": MobileNetV2}
HEADER = ("network", "multiple of", "MACs", "latency", "interval", "on processor", "on processor / MACs", "stable")
LEAST_STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=sorted(BUILDERS), choices=sorted(BUILDERS))
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--budget-seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{host_line()}, one thread, batch 1, {arguments.side} x {arguments.side} inputs\n")
    rows = []
    for name in arguments.networks:
        rows += variants(name, arguments)
    table(HEADER, [row[:-1] for row in rows])
    for name, step, *_, warnings in rows:
        for warning in warnings:
            print(f"{name} x{step}: {warning}")


def variants(name: str, arguments: argparse.Namespace) -> list[list[object]]:
    """Time a network and its variants in turn; one row for each variant."""
    with contextlib.redirect_stdout(io.StringIO()):
        content = export(
            seeded(lambda: BUILDERS[name](side=arguments.side)), "legacy", folded=True, side=arguments.side
        )
    graph = load.load(content)
    grouping = find(graph)
    before = cost.count(graph).macs
    smaller = {
        step: cut(graph, grouping, aligned(graph, grouping, step, arguments.ratio, arguments.seed))
        for step in arguments.steps
    }
    networks = {"before": content} | {str(step): save.to_bytes(one) for step, one in smaller.items()}
    measured = measure(networks, budget_seconds=arguments.budget_seconds)
    rows: list[list[object]] = []
    for step, one in smaller.items():
        compared = compare(measured["before"], measured[str(step)])
        macs = cost.count(one).macs / before
        interval = f"{compared.ratio.low:.3f} to {compared.ratio.high:.3f}"
        alone = compared.on_cpu_ratio or compared.ratio.value
        stable = "no" if compared.warnings else "yes"
        rows.append([name, step, macs, compared.ratio.value, interval, alone, alone / macs, stable, compared.warnings])
    return rows


def aligned(graph: ir.Model, grouping: Grouping, step: int, ratio: float, seed: int) -> Keep:
    """Keep the largest share of every group that holds the MACs ratio, in multiples of `step`, found by bisection."""
    model = cost_model(graph, grouping)
    limit = ratio * predicted(model, model.widths).macs
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        kept = widths(grouping, middle, step, seed)
        low, high = (middle, high) if predicted(model, kept).macs <= limit else (low, middle)
    rng = np.random.default_rng([seed, 1])
    mask = np.zeros(grouping.num_units, dtype=np.bool_)
    for group, count in zip(grouping.groups, widths(grouping, low, step, seed), strict=True):
        mask[group.start + rng.permutation(group.width)[:count]] = True
    return Keep(mask=mask)


def widths(grouping: Grouping, share: float, step: int, seed: int) -> list[int]:
    """Return how many units each group keeps: about `share` of them, rounded to the step."""
    jitter = np.random.default_rng([seed, 0]).uniform(0.8, 1.2, len(grouping.groups))
    kept = []
    for group, factor in zip(grouping.groups, jitter, strict=True):
        own = step
        while own > 1 and LEAST_STEPS * own > group.width:
            own //= 2
        wanted = math.floor(share * float(factor) * group.width / own + 0.5) * own
        kept.append(min(max(wanted, own), group.width))
    return kept


if __name__ == "__main__":
    main()
