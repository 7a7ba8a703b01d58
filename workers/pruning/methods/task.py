"""What a method is given and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from workers.pruning.graph.head import Head
from workers.pruning.graph.trunk import Trunk
from workers.pruning.training.data import Dataset
from workers.pruning.training.evaluate import Answers, Evaluation
from workers.pruning.training.loop import Finetuned
from workers.pruning.training.recipe import FinetuneSettings
from workers.pruning.types import NOTHING, Budget, Cost, CostModel, Grouping, Json, Keep, LatencyBudget, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A network, what may go, how little may remain, and the data to do it with."""

    uploaded: ir.Model  # as loaded; the file keeps its interface
    graph: ir.Model  # the same with an open batch axis; never changed
    head: Head
    data: Dataset
    grouping: Grouping
    cost_model: CostModel
    budgets: tuple[Budget, ...]  # of the target that is aimed at
    finetune: FinetuneSettings
    run: Run
    reference: ir.Model | Answers  # what the original says to held-out samples
    round_to: int | None = None  # None: chosen per group
    min_keep: float = 0.1
    job_budgets: tuple[tuple[Budget, ...], ...] = ()  # of every target of the job
    latency_budgets: tuple[LatencyBudget, ...] = ()  # of the target that is aimed at; `run.stopwatches` time them
    trunk: Trunk | None = None  # what `uploaded` is of the network that the file holds; None: all of it
    tail: Cost = NOTHING  # what the rest costs
    step_prefix: str = ""  # tells the journal entries of several targets apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """How good the network was after a stage: raw, compensated or fine-tuned."""

    name: str
    evaluation: Evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The pruned network and everything that was found out on the way."""

    graph: ir.Model
    keep: Keep
    masked_vs_cut: float  # largest absolute difference of an output
    stages: tuple[Stage, ...]
    finetuned: Finetuned | None
    score_source: str
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, Json] = field(default_factory=dict)
    pruned_task: Task | None = None  # where the method made another network of the upload and pruned that
