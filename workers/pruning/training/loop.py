"""Fine-tuning: the pruned network learns to answer as the original does.

One loop for every method. It is a replay: the state after a step depends on the step's number and the seed only, so an
attempt that was killed continues from its last record and ends, on CPU, with the same bytes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import onnx_ir as ir
import torch

from workers.pruning.errors import TrainingDiverged, says_no_memory
from workers.pruning.graph import cost, precision
from workers.pruning.graph.execute import GraphModule
from workers.pruning.graph.head import Head
from workers.pruning.graph.renormalise import fold_all
from workers.pruning.training import views
from workers.pruning.training.data import Dataset, Samples
from workers.pruning.training.front import Front, find_front
from workers.pruning.training.objective import Objective, roles
from workers.pruning.training.optimizer import optimizer_of
from workers.pruning.training.probing import LARGEST_GRADIENT, RATE_BATCHES, bearable_rate, completed
from workers.pruning.training.recipe import FinetuneSettings, Recipe, Workload, activation_bytes, choose, fallen
from workers.pruning.types import AnyArray, IntArray, Json, Memo, Phase, Run

SECONDS_BETWEEN_RECORDS: Final = 10.0
RECORD_SHARE: Final = 0.05  # of the time at most, however large the weights are
NUM_PROBES: Final = 256  # training samples that decide views and precision, and whether training helped
NUM_CURVE_POINTS: Final = 100
KEPT_BYTES: Final = 512 << 20  # of what layers behind the front read, for views that are seen again
SMALLEST_BATCH: Final = 8  # that is tried where memory runs out
VIEW_STREAM: Final = 202  # these keep draws apart from others of the same seed
DROPOUT_STREAM: Final = 203

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """A spring on some weights: adds strength/2 x |weight - anchor|^2 to the loss, summed over what `anchors` names.

    `part` = (k, n) says that the call is the k-th, from 0, of n equal parts of one cosine.
    """

    anchors: Mapping[str, AnyArray]  # initializer name -> where it is pulled to, in its shape
    strength: float
    part: tuple[int, int] = (0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One point of the training curve: the mean loss since the point before."""

    step: int
    loss: float
    learning_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetuned:
    """What fine-tuning gives: a new graph, how it went, and every figure that was used."""

    graph: ir.Model
    curve: tuple[CurvePoint, ...]
    recipe: Recipe
    loss_before: float  # on training samples as stored, evaluation mode
    loss_after: float
    notes: tuple[str, ...] = ()  # what had to be done otherwise

    @property
    def improved(self) -> bool:
        """Whether the loss on stored training samples fell; where it did not, the graph is the one that came in."""
        return self.loss_after < self.loss_before


def finetune(
    student: ir.Model,
    teacher: ir.Model,
    data: Dataset,
    settings: FinetuneSettings,
    run: Run,
    *,
    head: Head = Head.LOGITS,
    step_name: str = "finetune",
    pull: Pull | None = None,
) -> Finetuned:
    """Train a pruned graph to answer as the original; gives a new graph, the weights of the last step.

    Source: recipe measured on CIFAR ResNets (docs/benchmarks.md): distillation alone, SGD-Nesterov, cosine to zero.
    The last weights are kept, not the best: the rate has fallen to zero, and a choice by held-out accuracy would make
    that accuracy too good. One guard: where the loss on stored training samples did not fall, training is undone;
    not under a pull, which moves weights for another reason. Where memory runs out it begins anew with half the batch.

    Raises:
        TrainingDiverged: a loss is NaN or infinite; the message names the step and the rate.
    """
    workload = Workload(
        student_macs=cost.count(student).macs,
        teacher_macs=cost.count(teacher).macs,
        num_nodes=len(list(student.graph)) + len(list(teacher.graph)),
        activation_bytes=activation_bytes(student) + activation_bytes(teacher) // 8,
        num_samples=len(data.train),
        labelled=data.train.labels is not None,
        device=run.device,
    )
    recipe = choose(settings, workload, head)
    notes: list[str] = []
    while True:
        try:
            done = _Trainer(
                student,
                teacher,
                data.train,
                recipe,
                run=run,
                step_name=f"{step_name}-{recipe.batch_size}-{run.device}" if notes else step_name,
                pull=pull,
                may_lower_rate=settings.learning_rate is None,
            ).train()
        except (RuntimeError, MemoryError) as error:
            if not says_no_memory(error) or (recipe.batch_size <= SMALLEST_BATCH and run.device == "cpu"):
                raise
            recipe, run, note = _with_less(recipe, run)
            notes.append(note)
        else:
            return replace(done, notes=tuple(notes))


def _with_less(recipe: Recipe, run: Run) -> tuple[Recipe, Run, str]:
    """Half the batch after memory ran out, and the CPU after the smallest; training begins anew."""
    if recipe.batch_size > SMALLEST_BATCH:
        smaller = max(SMALLEST_BATCH, recipe.batch_size // 2)
        rate = recipe.learning_rate * math.sqrt(smaller / recipe.batch_size)
        note = f"Memory ran out in fine-tuning with batches of {recipe.batch_size}; it began anew with {smaller}."
        return replace(recipe, batch_size=smaller, learning_rate=rate), run, note
    note = f"Memory of the {run.device} device ran out even with batches of {recipe.batch_size}; the CPU did the rest."
    return recipe, replace(run, device="cpu"), note


class _Trainer:
    """The state of one fine-tuning: weights, momentum, running statistics, step and curve."""

    def __init__(
        self,
        student: ir.Model,
        teacher: ir.Model,
        samples: Samples,
        recipe: Recipe,
        *,
        run: Run,
        step_name: str,
        pull: Pull | None,
        may_lower_rate: bool,
    ) -> None:
        self._graph, self._samples, self._run, self._step_name = student, samples, run, step_name
        self._pull = pull
        self._part = (0, 1) if pull is None else pull.part
        self._step = 0
        answering = fold_all(teacher)
        self._teacher = _placed(GraphModule(answering, trainable=False).eval(), run.device)
        self._probes = self._inputs(np.arange(min(NUM_PROBES, len(samples)), dtype=np.int64))
        self.recipe = completed(recipe, self._teacher, self._probes, run.device)
        self._answers = self._outputs(self._teacher, self._probes)
        self._objective = Objective(self.recipe, self._answers, roles(student))
        self._known: dict[int, tuple[Tensors, Tensors]] = {}  # of views that are seen again: what the network reads
        self._room = KEPT_BYTES  # and what the original answers
        self._student = _placed(GraphModule(student), run.device)
        self._front = self._nearly_right(answering)
        self._leading: GraphModule | None = None
        if self._front.nodes:
            self._leading, self._student = (_placed(part, run.device) for part in self._front.apart(student))
            self.recipe = replace(self.recipe, frozen=len(self._front.nodes))
        self._probes_led = self._led(self._probes)
        if may_lower_rate:
            self.recipe = self._bearable()
        self._optimizer = optimizer_of(self._student, self.recipe)
        self._anchors = _anchored(self._student, pull)
        self._loss_sum, self._loss_count = 0.0, 0
        self._curve: list[CurvePoint] = []
        self._loss_before = self._probe_loss()

    def train(self) -> Finetuned:
        """Run every step that is left, recording on the way."""
        self._resume()
        started, first_step = self._run.clock(), self._step
        due = started + SECONDS_BETWEEN_RECORDS
        while self._step < self.recipe.steps:
            loss = self._take_step()
            self._note(loss)
            now = self._run.clock()
            self._report(loss, (now - started) / (self._step - first_step))
            if now >= due:
                self._record()
                recorded = self._run.clock()
                due = recorded + max(SECONDS_BETWEEN_RECORDS, (recorded - now) / RECORD_SHARE)
        if self._step > first_step:
            self._record()
        loss_after = self._probe_loss()
        improved = loss_after < self._loss_before or self._pull is not None
        return Finetuned(
            graph=self._front.write_back(self._student, self._graph) if improved else self._graph,
            curve=tuple(self._curve),
            recipe=self.recipe,
            loss_before=self._loss_before,
            loss_after=loss_after,
        )

    def _take_step(self) -> float:
        recipe = self.recipe
        done = (self._part[0] + self._step / recipe.steps) / self._part[1]
        rate = fallen(recipe.learning_rate, done)
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = rate
        self._optimizer.zero_grad()
        total = self._loss(*self._lesson(self._step % -(-recipe.steps // recipe.passes)))
        if self._pull is not None:
            distances = torch.stack([(weight - anchor).square().sum() for weight, anchor in self._anchors])
            total = total + 0.5 * self._pull.strength * distances.sum()
        total.backward()  # type: ignore[no-untyped-call]  # torch has no annotation here
        loss = total.item()
        if not math.isfinite(loss):
            raise TrainingDiverged(
                "The loss of fine-tuning is no longer finite",
                where=f"step {self._step} of {recipe.steps}",
                actual=loss,
                allowed="finite",
                advice=f"Set finetune.learning_rate below {rate:.2g}, or finetune.steps to 0.",
            )
        torch.nn.utils.clip_grad_norm_(self._student.parameters(), LARGEST_GRADIENT)
        self._optimizer.step()
        self._step += 1
        return loss

    def _nearly_right(self, answering: ir.Model) -> Front:
        """The layers that stay, where training is hastened."""
        if self.recipe.passes == 1:
            return Front()
        with precision.arithmetic(self.recipe.precision, self._run.device):
            return find_front(self._graph, answering, (self._student, self._teacher), self._probes)

    def _lesson(self, number: int) -> tuple[Tensors, Tensors, torch.Tensor | None]:
        """What is trained reads of a view of some samples, what the original answers if it is asked, and the labels."""
        indices = self._indices(number)
        read, answers = self._known.get(number, ((), ()))
        if not read:
            view = self._viewed(self._inputs(indices), number)
            if self.recipe.distillation > 0 and not answers:
                answers = self._outputs(self._teacher, view)
            read = self._led(view)
            self._keep(number, read, answers)
        return read, answers, self._labels(indices)

    def _led(self, inputs: Tensors) -> Tensors:
        """What the layers behind the front read."""
        return inputs if self._leading is None else self._outputs(self._leading, inputs)

    def _keep(self, number: int, read: Tensors, answers: Tensors) -> None:
        """Remember what a view that is seen again is made of, as long as there is room."""
        if self.recipe.passes == 1:
            return
        size = sum(tensor.nbytes for tensor in read)
        stays = size <= self._room
        self._room -= size if stays else 0
        self._known[number] = (read if stays else (), answers)

    def _loss(self, inputs: Tensors, taught: Tensors, labels: torch.Tensor | None) -> torch.Tensor:
        """The loss of a batch in training mode."""
        self._student.train()
        with torch.random.fork_rng(enabled=True):  # Dropout draws from the global generator.
            torch.manual_seed(int(np.random.default_rng([self._run.seed, DROPOUT_STREAM, self._step]).integers(2**31)))
            with precision.arithmetic(self.recipe.precision, self._run.device):
                outputs = self._student(*inputs)
        return self._objective(outputs, taught, labels)

    def _indices(self, step: int) -> IntArray:
        return views.batch_indices(
            self._run.seed, step, batch_size=self.recipe.batch_size, num_samples=len(self._samples)
        )

    def _outputs(self, network: GraphModule, inputs: Tensors) -> Tensors:
        with torch.no_grad(), precision.arithmetic(self.recipe.precision, self._run.device):
            return tuple(network(*inputs))

    def _probe_loss(self) -> float:
        self._student.eval()
        labels = self._labels(np.arange(len(self._probes[0]), dtype=np.int64))
        with torch.no_grad():
            outputs = self._outputs(self._student, self._probes_led)
            return self._objective(outputs, self._answers, labels).item()

    def _bearable(self) -> Recipe:
        """Lower the rate to what the first batches bear."""
        losses = [partial(self._loss, *self._lesson(step)) for step in range(min(RATE_BATCHES, self.recipe.steps))]
        rate = bearable_rate(self.recipe.learning_rate, self._student.train(), losses)
        return replace(self.recipe, learning_rate=rate)

    def _viewed(self, inputs: Tensors, step: int) -> Tensors:
        if not (self.recipe.max_shift or self.recipe.flip):
            return inputs
        rng = np.random.default_rng([self._run.seed, VIEW_STREAM, step])
        view = views.shift_and_flip(inputs[0], rng, max_shift=self.recipe.max_shift, flip=self.recipe.flip)
        return (view.contiguous(memory_format=torch.channels_last),)

    def _inputs(self, indices: IntArray) -> Tensors:
        tensors = (torch.from_numpy(np.ascontiguousarray(array)) for array in self._samples.batch(indices))
        return tuple(_channels_last(tensor.to(self._run.device)) for tensor in tensors)

    def _labels(self, indices: IntArray) -> torch.Tensor | None:
        labels = self._samples.labels
        return None if labels is None else torch.from_numpy(labels[indices]).to(self._run.device)

    def _note(self, loss: float) -> None:
        self._loss_sum, self._loss_count = self._loss_sum + loss, self._loss_count + 1
        if self._step % max(1, self.recipe.steps // NUM_CURVE_POINTS) and self._step < self.recipe.steps:
            return
        rate = float(self._optimizer.param_groups[0]["lr"])
        self._curve.append(CurvePoint(step=self._step, loss=self._loss_sum / self._loss_count, learning_rate=rate))
        self._loss_sum, self._loss_count = 0.0, 0

    def _report(self, loss: float, seconds_per_step: float) -> None:
        left = self.recipe.steps - self._step
        self._run.report(
            Phase.FINETUNE,
            self._step / self.recipe.steps,
            f"step {self._step} of {self.recipe.steps}",
            loss=loss,
            step=self._step,
            eta_seconds=left * seconds_per_step,
        )

    def _record(self) -> None:
        arrays: dict[str, AnyArray] = {}
        for name, tensor in self._student.initializers.items():
            arrays[f"value/{name}"] = tensor.detach().cpu().contiguous().numpy().copy()
            momentum = self._optimizer.state.get(tensor, {}).get("momentum_buffer")
            if momentum is not None:
                arrays[f"momentum/{name}"] = momentum.detach().cpu().contiguous().numpy().copy()
        state: Mapping[str, Json] = {
            "step": self._step,
            "loss_sum": self._loss_sum,
            "loss_count": self._loss_count,
            "curve": [[point.step, point.loss, point.learning_rate] for point in self._curve],
        }
        self._run.journal.record(self._step_name, Memo(arrays=arrays, state=state))

    def _resume(self) -> None:
        memo = self._run.journal.recall(self._step_name)
        if memo is None or not memo.arrays:  # nothing, or made room for what came after
            return
        with torch.no_grad():
            for name, tensor in self._student.initializers.items():
                tensor.copy_(torch.from_numpy(np.array(memo.arrays[f"value/{name}"])))
                momentum = memo.arrays.get(f"momentum/{name}")
                if momentum is not None:
                    buffer = torch.empty_like(tensor).copy_(torch.from_numpy(np.array(momentum)))
                    self._optimizer.state[tensor]["momentum_buffer"] = buffer
        self._step = _integer(memo.state["step"])
        self._loss_sum, self._loss_count = _number(memo.state["loss_sum"]), _integer(memo.state["loss_count"])
        points = memo.state["curve"]
        if not isinstance(points, list):
            raise TypeError(f"a recorded curve is a list, found {type(points).__name__}")
        self._curve = [CurvePoint(step=step, loss=loss, learning_rate=rate) for step, loss, rate in points]


def _placed(network: GraphModule, device: str) -> GraphModule:
    placed: GraphModule = network.to(device)
    return placed.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # torch's stub has no overload for it


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _anchored(network: GraphModule, pull: Pull | None) -> list[Tensors]:
    """Pair each weight that is pulled with its anchor."""
    if pull is None:
        return []
    weights = network.initializers
    return [(weights[name], torch.from_numpy(np.array(a)).to(weights[name])) for name, a in pull.anchors.items()]


def _number(value: Json) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"a recorded figure is a number, found {type(value).__name__}")
    return float(value)


def _integer(value: Json) -> int:
    return int(_number(value))
