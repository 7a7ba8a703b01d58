"""What a latency model says of each group: the reason why one device wants other widths than another."""

from collections.abc import Sequence
from typing import Final

from workers.pruning.types import Grouping, Json, TimedLayer

_GROUPS_AT_MOST: Final = 200
_NAMES_AT_MOST: Final = 16


def by_group(
    grouping: Grouping,
    kept: Sequence[int],
    steps: Sequence[int],
    *,
    original: Sequence[TimedLayer],
    pruned: Sequence[TimedLayer],
) -> list[Json]:
    """Give what the layers that run through each group are predicted to take before and after, the longest first.

    A layer that reads one group and writes another counts for both, so groups add up to more than the network.
    `saved_by_step_ms` is what giving up the first step of units saves: what a planner weighs against their scores.

    Args:
        grouping: the groups of the network.
        kept: units that each group keeps.
        steps: units that each group gives up at a time on this device.
        original: what layers take, corrected as for the original.
        pruned: the same, corrected as for the pruned network.
    """
    widths = [group.width for group in grouping.groups]
    found: list[tuple[float, Json]] = []
    for index, group in enumerate(grouping.groups):
        before = _sum(original, index, widths)
        if before <= 0:
            continue
        step = min(steps[index], widths[index] - 1)
        fewer = [width - step * (place == index) for place, width in enumerate(widths)]
        entry: Json = {
            "group": group.id,
            "layers": list(group.producers[:_NAMES_AT_MOST]),
            "width": group.width,
            "kept": kept[index],
            "step": steps[index],
            "original_ms": before,
            "kept_ms": _sum(pruned, index, kept),
            "saved_by_step_ms": before - _sum(original, index, fewer),
        }
        found.append((before, entry))
    found.sort(key=lambda one: -one[0])
    return [entry for _, entry in found[:_GROUPS_AT_MOST]]


def _sum(layers: Sequence[TimedLayer], group: int, kept: Sequence[int]) -> float:
    return sum(layer.ms(kept) for layer in layers if group in layer.groups)
