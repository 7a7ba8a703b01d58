"""Tools from outside as contenders, used as their documentation says; they are installed for the benchmark only.

Torch-Pruning 1.6 (group importance, Fang et al. 2023) prunes torch modules; onnxsim 0.8 prunes ONNX files. Both get the
same calibration samples, the same target in MACs by our counter, and afterwards the same training loop as our methods.
"""

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import nn
from torch.nn import functional

from benchmarks.deciding.spending import COMPENSATION, SEARCH, Spending
from benchmarks.deciding.subjects import Subject
from benchmarks.deciding.workbench import Means, Pruned, reloaded
from benchmarks.networks import export
from workers.pruning.compensation.batch_statistics import reestimate
from workers.pruning.graph import cost, save
from workers.pruning.methods import steps
from workers.pruning.methods.task import Task
from workers.pruning.types import IntArray

ROUNDS: Final = 400  # steps in which Torch-Pruning goes from everything to nothing: how finely a target is met
MOST_PRUNED: Final = 0.9  # of a layer, as ours: a tenth always stays
HALVINGS: Final = 12  # of the interval in which onnxsim's sparsity is sought

Find = Callable[[Task, Subject, Means, Spending], Pruned]


def torch_pruning(kind: Literal["l2", "taylor"]) -> Find:
    """Torch-Pruning, global, in small steps until the target is met, as its examples do (`progressive_pruning`).

    Group L2 as it is by default; Taylor with gradients of the cross-entropy on the calibration samples, taken once.
    Where the dependency graph would go wrong (shortcuts that pad channels) only the insides of blocks are pruned.
    """

    def find(task: Task, subject: Subject, means: Means, spending: Spending) -> Pruned:
        import torch_pruning as tp

        assert subject.module is not None
        with spending.on(SEARCH):
            network = subject.module(means.cache)
            batches = steps.calibration_batches(task, steps.CALIBRATION_SAMPLES)
            importance = tp.importance.GroupMagnitudeImportance(p=2) if kind == "l2" else _taylor(tp, network, task)
            example = torch.from_numpy(np.asarray(batches[0][0][:1]))
            pruner = tp.pruner.BasePruner(
                network,
                example,
                importance=importance,
                global_pruning=True,
                pruning_ratio=1.0,
                max_pruning_ratio=MOST_PRUNED,
                iterative_steps=ROUNDS,
                ignored_layers=_ignored(network, subject),
            )
            full, ratio = _macs(network, example), _ratio(task)
            for _ in range(ROUNDS):
                if _macs(network, example) <= ratio * full:
                    break
                pruner.step()
            raw = reloaded(export(network.eval(), "legacy", folded=False, side=subject.side, channels=example.shape[1]))
        with spending.on(COMPENSATION):
            recalibrated = reestimate(raw, batches, task.run)
        return Pruned(final=recalibrated, spending=spending, stages={"raw": raw, "recalibrated": recalibrated})

    return find


def onnxsim(kind: Literal["l2", "wanda"]) -> Find:
    """Structured pruning of onnxsim (`apply_structured_pruning`, `apply_structured_wanda_pruning`), global sparsity.

    It takes a sparsity, no target: the smallest sparsity that meets the target is found by halving. It wants
    BatchNormalization folded, so it gets the folded export, or what its own `simplify` makes of the file.
    """

    def find(task: Task, subject: Subject, means: Means, spending: Spending) -> Pruned:
        with spending.on(SEARCH):
            network = _folded(subject, means)
            batches = steps.calibration_batches(task, steps.CALIBRATION_SAMPLES)
            name = network.graph.input[0].name
            feeds = [{name: np.asarray(batch[0])} for batch in batches]
            raw, sparsity = _sparse_enough(task, network, feeds if kind == "wanda" else None)
        return Pruned(final=raw, spending=spending, stages={"raw": raw}, facts={"sparsity": sparsity})

    return find


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A tool from outside."""

    find: Find
    package: str
    needs_module: bool


PEERS: Final[Mapping[str, Peer]] = {
    "torch_pruning_l2": Peer(find=torch_pruning("l2"), package="torch_pruning", needs_module=True),
    "torch_pruning_taylor": Peer(find=torch_pruning("taylor"), package="torch_pruning", needs_module=True),
    "onnxsim_l2": Peer(find=onnxsim("l2"), package="onnxsim", needs_module=False),
    "onnxsim_wanda": Peer(find=onnxsim("wanda"), package="onnxsim", needs_module=False),
}


def _taylor(tp: Any, network: nn.Module, task: Task) -> Any:
    for images, labels in _labelled(task):
        functional.cross_entropy(network(torch.from_numpy(images)), torch.from_numpy(labels)).backward()
    return tp.importance.GroupTaylorImportance()


def _labelled(task: Task) -> list[tuple[np.ndarray, IntArray]]:
    """The calibration samples with their labels: the same draw as `calibration_batches`."""
    samples = task.data.train
    assert samples.labels is not None
    draw = np.random.default_rng([task.run.seed, steps.CALIBRATION_STREAM])
    order = np.sort(draw.permutation(len(samples))[: steps.CALIBRATION_SAMPLES])
    parts = np.array_split(order, max(1, len(order) // steps.CALIBRATION_BATCH))
    return [(np.asarray(samples.batch(part)[0]), samples.labels[part]) for part in parts]


def _ignored(network: nn.Module, subject: Subject) -> list[nn.Module]:
    layers = [(name, one) for name, one in network.named_modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    if not subject.interiors:
        return [layers[-1][1]]
    return [one for name, one in layers if not ("." in name and name.endswith(subject.interiors))]


def _ratio(task: Task) -> float:
    return task.budgets[0].limit / cost.count(task.graph).macs


def _macs(network: nn.Module, example: torch.Tensor) -> int:
    """Multiply-adds of convolutions and linear layers, as our own counter has them."""
    total = 0

    def add(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        weight = layer.weight
        total += output[0].numel() * (weight[0].numel() if isinstance(layer, nn.Conv2d) else weight.shape[1])

    layers = [one for one in network.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    with torch.no_grad():
        network.eval()(example)
    for hook in hooks:
        hook.remove()
    return total


def _folded(subject: Subject, means: Means) -> onnx.ModelProto:
    import onnxsim as tool

    if subject.folded is not None:
        return onnx.load(subject.folded(means.cache))
    simplified, _ = tool.simplify(onnx.load(subject.network(means.cache)))
    return simplified


def _sparse_enough(task: Task, network: onnx.ModelProto, feeds: Any) -> tuple[ir.Model, float]:
    import onnxsim as tool

    low, high, best = 0.0, 1.0, (None, 1.0)
    for _ in range(HALVINGS):
        sparsity = (low + high) / 2
        given = copy.deepcopy(network)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if feeds is None:
                found = tool.apply_structured_pruning(given, sparsity=sparsity, global_sparsity=True)
            else:
                found = tool.apply_structured_wanda_pruning(
                    given, calibration_data=feeds, sparsity=sparsity, global_sparsity=True
                )
        del found.graph.value_info[:]  # it leaves the shapes of before
        graph = reloaded(found.SerializeToString())
        if cost.count(graph).macs <= task.budgets[0].limit:
            best, high = (save.to_bytes(graph), sparsity), sparsity
        else:
            low = sparsity
    if best[0] is None:
        raise TargetBeyondTool(cost.count(graph).macs / cost.count(task.graph).macs)
    return reloaded(best[0]), best[1]


class TargetBeyondTool(Exception):
    """A tool cannot make the network as small as asked."""

    def __init__(self, least: float) -> None:
        super().__init__(f"at its highest sparsity {least:.3f} of the MACs are left")
