"""What an attempt leaves of ADMM after each round, for the next attempt to go on from."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from workers.pruning.graph.weights import replace_weights, weights
from workers.pruning.methods.admm import Iterate, Residuals
from workers.pruning.methods.subproblems import STEP, Feasible, Setting, Walk
from workers.pruning.types import AnyArray, Json, Keep, Memo


def record(setting: Setting, iterate: Iterate[Walk]) -> None:
    """Keep everything that the next round needs; the training record of this round makes room."""
    walk = iterate.state
    if walk.best is None:
        raise ValueError("a round that was judged has a best network")
    arrays: dict[str, AnyArray] = {"keep": walk.best.keep.mask}
    for part, point in (
        ("w", weights(walk.graph)),
        ("best", weights(walk.best.graph)),
        ("z", iterate.z),
        ("u", iterate.u),
    ):
        arrays |= {f"{part}/{name}": array for name, array in point.items()}
    arrays |= {f"mask/{number}": array for number, array in enumerate(iterate.masks)}
    state: dict[str, Json] = {
        "rho": iterate.rho,
        "residuals": [residuals.to_json() for residuals in iterate.residuals],
        "distances": list(walk.distances),
        "best_round": walk.best_round,
        "best_distance": walk.best.distance,
    }
    journal, name = setting.task.run.journal, f"{setting.task.step_prefix}{STEP}"
    journal.record(name, Memo(arrays=arrays, state=state))
    journal.record(f"{name}{len(iterate.residuals)}", Memo())


def recalled(setting: Setting, walk: Walk) -> Iterate[Walk] | None:
    """Give the iterate that an earlier attempt recorded; `walk` is the one that it started from."""
    memo = setting.task.run.journal.recall(f"{setting.task.step_prefix}{STEP}")
    if memo is None:
        return None
    state = memo.state
    keep = Keep(mask=np.array(memo.arrays["keep"]).astype(np.bool_))
    best = replace_weights(walk.graph, _part(memo, "best"))
    masks = _part(memo, "mask")
    return Iterate(
        state=Walk(
            graph=replace_weights(walk.graph, _part(memo, "w")),
            best=Feasible(graph=best, keep=keep, distance=_number(state["best_distance"])),
            best_round=int(_number(state["best_round"])),
            distances=tuple(_number(entry) for entry in _list(state["distances"])),
        ),
        z=_point(memo, "z"),
        u=_point(memo, "u"),
        rho=_number(state["rho"]),
        residuals=tuple(Residuals(**entry) for entry in _list(state["residuals"])),  # type: ignore[arg-type]  # of to_json
        masks=tuple(masks[str(number)].astype(np.bool_) for number in range(len(masks))),
    )


def _part(memo: Memo, part: str) -> dict[str, AnyArray]:
    prefix = f"{part}/"
    return {name.removeprefix(prefix): np.array(a) for name, a in memo.arrays.items() if name.startswith(prefix)}


def _point(memo: Memo, part: str) -> dict[str, npt.NDArray[np.float32]]:
    return {name: array.astype(np.float32) for name, array in _part(memo, part).items()}


def _number(value: Json) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"a recorded figure is a number, found {type(value).__name__}")
    return float(value)


def _list(value: Json) -> Sequence[Json]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"a recorded list is a list, found {type(value).__name__}")
    return value
