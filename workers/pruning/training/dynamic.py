"""Training of a network that becomes smaller on the way, in batches that may become larger.

The trainer holds one network, its momentum and how far it is. What to cut and when is decided elsewhere: `resize` puts
the trained values and their momentum into a smaller graph. Everything is a function of recorded state, never of time.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, cast

import numpy as np
import onnx_ir as ir
import torch

from workers.pruning.errors import TrainingDiverged
from workers.pruning.graph import cost, precision
from workers.pruning.graph.execute import Edits, GraphModule
from workers.pruning.graph.feed import frozen_module, tensors
from workers.pruning.training import views
from workers.pruning.training.data import Samples
from workers.pruning.training.loop import NUM_PROBES, CurvePoint
from workers.pruning.training.memory import BYTES, MemoryModel, Saved, measure
from workers.pruning.training.objective import Objective, roles
from workers.pruning.training.optimizer import Descent, optimizer_of
from workers.pruning.training.probing import LARGEST_GRADIENT, RATE_BATCHES, bearable_rate, completed
from workers.pruning.training.recipe import Recipe
from workers.pruning.types import AnyArray, IntArray, Json, Memo, Run

DROPOUT_STREAM: Final = 207  # these keep draws apart from others of the same seed
VIEW_STREAM: Final = 208
ORDER_STREAM: Final = 209
LOSS_DECAY: Final = 0.9
LEAST_PART: Final = 8  # samples that the teacher takes at a time, at least
COPIES: Final = 3  # of each parameter: itself, its gradient, its momentum
_NUM_CURVE_POINTS: Final = 100

Slices = Mapping[str, Mapping[int, IntArray]]  # initializer -> axis -> positions that stay
EditsOf = Callable[[int], Edits]  # number of samples -> what is put into a step


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far training is; what changes from step to step."""

    steps: int = 0
    samples: int = 0
    batch_size: int
    rate_factor: float = 1.0
    loss: float | None = None  # exponential average
    since: float = 0.0  # sum and number of losses since the last point of the curve
    count: int = 0


class DynamicTrainer:
    """One training with a network that can be exchanged for a smaller one."""

    def __init__(
        self,
        graph: ir.Model,
        teacher: ir.Model | None,
        samples: Samples,
        recipe: Recipe,
        *,
        batch_size: int,
        run: Run,
    ) -> None:
        """`recipe.steps` steps of `batch_size` samples give the number of samples that training sees in all.

        Without a teacher the loss has to be the cross-entropy on labels.
        """
        self._samples, self._run = samples, run
        self._teacher = None if teacher is None else frozen_module(teacher, run.device)
        self._teacher_sample = 0 if teacher is None else cost.count(teacher).peak_activation_bytes
        count = min(NUM_PROBES, len(samples), _probes_that_fit(self._teacher_sample, run.memory_bytes))
        self._probes = tensors(samples.batch(np.arange(count, dtype=np.int64)), run.device)
        self.recipe = completed(recipe, self._teacher, self._probes, run.device)
        self._teacher_fixed = 0 if teacher is None else cost.count(teacher).params * BYTES
        self._sample_bytes = 0  # what autograd keeps for one sample, once it was measured
        self._objective = Objective(self.recipe, self._taught(self._probes), roles(graph))
        self.total_samples = recipe.steps * batch_size
        self.progress = Progress(batch_size=batch_size)
        self.curve: list[CurvePoint] = []
        self._place(graph)

    @property
    def fraction(self) -> float:
        """The share of samples that was seen."""
        return min(1.0, self.progress.samples / self.total_samples)

    def resize(self, graph: ir.Model, slices: Slices) -> None:
        """Continue with a smaller graph: values, statistics and momentum keep their positions that stay."""
        values = {name: _sliced(tensor.detach(), slices.get(name, {})) for name, tensor in self.initializers.items()}
        momentum = {
            name: _sliced(buffer, slices.get(name, {}))
            for name, tensor in self.initializers.items()
            if (buffer := self._momentum_of(tensor)) is not None
        }
        self._place(graph)
        self._fill(values, momentum)

    def step(self, edits_of: EditsOf, rate: float, *, measured: bool = False) -> int | None:
        """Take one step at this rate; gives the bytes that were held at the start of backward where asked for.

        Raises:
            TrainingDiverged: the loss is NaN or infinite.
        """
        progress = self.progress
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = rate
        self._optimizer.zero_grad()
        indices = self._indices(progress.samples, progress.batch_size)
        held = None
        if measured:
            with Saved(self._resident()) as saved:
                loss = self._loss(indices, edits_of(len(indices)), viewed=True)
            held = self._resident_bytes() + max(saved.num_bytes, self._part(len(indices)) * self._teacher_sample)
        else:
            loss = self._loss(indices, edits_of(len(indices)), viewed=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation here
        self._note(loss.item(), rate)
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), LARGEST_GRADIENT)
        self._optimizer.step()
        progress.steps += 1
        progress.samples += len(indices)
        return held

    def memory(self, edits_of: EditsOf) -> MemoryModel:
        """Measure what training the present network holds; leaves it as it was."""
        statistics = {name: buffer.clone() for name, buffer in self._network.named_buffers()}

        def loss_of(count: int) -> torch.Tensor:
            indices = np.arange(count, dtype=np.int64) % len(self._samples)
            return self._loss(indices, edits_of(count), viewed=False)

        parameters = sum(parameter.nbytes for parameter in self._network.parameters())
        fixed = self._resident_bytes() - COPIES * parameters
        found = measure(loss_of, self._resident(), COPIES * parameters, fixed)
        with torch.no_grad():
            for name, buffer in self._network.named_buffers():
                buffer.copy_(statistics[name])
        self._sample_bytes = found.sample_bytes
        return replace(found, least_bytes=LEAST_PART * self._teacher_sample)

    def lower_rate(self, boldness: float = 1.0) -> None:
        """Lower the rate to so many times what the first batches bear; holds no more than a step."""
        size = self.progress.batch_size
        batches = [self._indices(number * size, size) for number in range(RATE_BATCHES)]
        losses = [partial(self._loss, indices, {}, viewed=True) for indices in batches]
        rate = bearable_rate(self.recipe.learning_rate / boldness, self._network, losses)
        self.recipe = replace(self.recipe, learning_rate=boldness * rate)

    def probe_loss(self) -> float:
        """Loss on the first training samples as stored, in evaluation mode."""
        self._network.eval()
        with torch.no_grad(), precision.arithmetic(self.recipe.precision, self._run.device):
            outputs = self._network(*self._probes)
        labels = self._labels(np.arange(len(self._probes[0]), dtype=np.int64))
        return float(self._objective(outputs, self._taught(self._probes), labels))

    def uninformed_loss(self) -> float:
        """Loss of a network that always answers zero: what a rise of the loss is measured with."""
        with torch.no_grad(), precision.arithmetic(self.recipe.precision, self._run.device):
            outputs = tuple(torch.zeros_like(output) for output in self._network.eval()(*self._probes))
        labels = self._labels(np.arange(len(self._probes[0]), dtype=np.int64))
        return float(self._objective(outputs, self._taught(self._probes), labels))

    def trained(self) -> ir.Model:
        """The present graph with the trained values."""
        return self._network.write_back(self._graph)

    @property
    def initializers(self) -> Mapping[str, torch.Tensor]:
        """Parameters and statistics by name."""
        return self._network.initializers

    @property
    def optimiser(self) -> Descent:
        """The optimiser of the present network."""
        return self._optimizer

    def memo(self) -> Memo:
        """Everything that a later attempt needs to continue with identical results."""
        arrays: dict[str, AnyArray] = {}
        for name, tensor in self.initializers.items():
            arrays[f"value/{name}"] = _array(tensor)
            buffer = self._momentum_of(tensor)
            if buffer is not None:
                arrays[f"momentum/{name}"] = _array(buffer)
        progress = self.progress
        state: dict[str, Json] = {
            "steps": progress.steps,
            "samples": progress.samples,
            "batch_size": progress.batch_size,
            "rate_factor": progress.rate_factor,
            "loss": progress.loss,
            "since": progress.since,
            "count": progress.count,
            "curve": [[point.step, point.loss, point.learning_rate] for point in self.curve],
        }
        return Memo(arrays=arrays, state=state)

    def restore(self, graph: ir.Model, memo: Memo) -> None:
        """Continue where `memo` was taken; `graph` is the network of that moment."""
        self._place(graph)
        names = list(self.initializers)
        taken = {kind: {n: a for n in names if (a := memo.arrays.get(f"{kind}/{n}")) is not None} for kind in _KINDS}
        held = {kind: {n: torch.from_numpy(np.array(a)) for n, a in found.items()} for kind, found in taken.items()}
        self._fill(held["value"], held["momentum"])
        state = cast("Mapping[str, float]", memo.state)
        loss = memo.state["loss"]
        self.progress = Progress(
            steps=int(state["steps"]),
            samples=int(state["samples"]),
            batch_size=int(state["batch_size"]),
            rate_factor=float(state["rate_factor"]),
            loss=None if loss is None else float(cast("float", loss)),
            since=float(state["since"]),
            count=int(state["count"]),
        )
        points = cast("Sequence[tuple[int, float, float]]", memo.state["curve"])
        self.curve = [CurvePoint(step=step, loss=loss, learning_rate=rate) for step, loss, rate in points]

    def _place(self, graph: ir.Model) -> None:
        self._graph = graph
        placed = GraphModule(graph).to(self._run.device)
        self._network: GraphModule = placed.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub has no overload for it
        self._optimizer = optimizer_of(self._network, self.recipe)

    def _fill(self, values: Mapping[str, torch.Tensor], momentum: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self.initializers.items():
                if name in values:
                    tensor.copy_(values[name])
                if name in momentum:
                    self._optimizer.state[tensor]["momentum_buffer"] = torch.empty_like(tensor).copy_(momentum[name])

    def _momentum_of(self, tensor: torch.Tensor) -> torch.Tensor | None:
        found: torch.Tensor | None = self._optimizer.state.get(tensor, {}).get("momentum_buffer")
        return found

    def _loss(self, indices: IntArray, edits: Edits, *, viewed: bool) -> torch.Tensor:
        self._network.train()
        inputs = tensors(self._samples.batch(indices), self._run.device)
        if viewed and (self.recipe.max_shift or self.recipe.flip):
            rng = np.random.default_rng([self._run.seed, VIEW_STREAM, self.progress.steps])
            view = views.shift_and_flip(inputs[0], rng, max_shift=self.recipe.max_shift, flip=self.recipe.flip)
            inputs = [view.contiguous(memory_format=torch.channels_last)]
        taught = self._taught(inputs)
        with torch.random.fork_rng(enabled=True):  # Dropout draws from the global generator.
            seed = np.random.default_rng([self._run.seed, DROPOUT_STREAM, self.progress.steps]).integers(2**31)
            torch.manual_seed(int(seed))
            with precision.arithmetic(self.recipe.precision, self._run.device):
                outputs = self._network.run(inputs, edits=edits)
        return self._objective(outputs, taught, self._labels(indices))

    def _taught(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """What the teacher answers, in parts that need no more memory than the student's step."""
        if self._teacher is None:
            return ()
        part, count = self._part(len(inputs[0])), len(inputs[0])
        teacher = self._teacher
        with torch.no_grad(), precision.arithmetic(self.recipe.precision, self._run.device):
            starts = range(0, count, part)
            found = [teacher(*(tensor[start : start + part] for tensor in inputs)) for start in starts]
        return tuple(found[0] if len(found) == 1 else (torch.cat(each) for each in zip(*found, strict=True)))

    def _part(self, count: int) -> int:
        """Samples that the teacher takes at a time."""
        fitting = count * self._sample_bytes // max(1, self._teacher_sample) if self._sample_bytes else count
        return min(count, max(LEAST_PART, fitting))

    def _labels(self, indices: IntArray) -> torch.Tensor | None:
        labels = self._samples.labels
        return None if labels is None else torch.from_numpy(labels[indices]).to(self._run.device)

    def _indices(self, position: int, count: int) -> IntArray:
        """Samples number `position` and following of an endless row of seeded permutations."""
        num_samples = len(self._samples)
        found: list[IntArray] = []
        while count > 0:
            epoch, start = divmod(position, num_samples)
            order = np.random.default_rng([self._run.seed, ORDER_STREAM, epoch]).permutation(num_samples)
            found.append(order[start : start + count].astype(np.int64))
            position += len(found[-1])
            count -= len(found[-1])
        return np.concatenate(found)

    def _note(self, loss: float, rate: float) -> None:
        progress = self.progress
        if not math.isfinite(loss):
            raise TrainingDiverged(
                "The loss of training is no longer finite",
                where=f"step {progress.steps}",
                actual=loss,
                allowed="finite",
                advice=f"Set finetune.learning_rate below {rate:.2g}.",
            )
        progress.loss = loss if progress.loss is None else LOSS_DECAY * progress.loss + (1 - LOSS_DECAY) * loss
        progress.since, progress.count = progress.since + loss, progress.count + 1
        seen = progress.samples + progress.batch_size
        if seen * _NUM_CURVE_POINTS // self.total_samples > progress.samples * _NUM_CURVE_POINTS // self.total_samples:
            point = CurvePoint(step=progress.steps + 1, loss=progress.since / progress.count, learning_rate=rate)
            self.curve.append(point)
            progress.since, progress.count = 0.0, 0

    def _resident(self) -> list[torch.Tensor]:
        return [*self._network.parameters(), *self._network.buffers()]

    def _resident_bytes(self) -> int:
        """Parameters with gradient and momentum, statistics, and the teacher's parameters."""
        parameters = sum(parameter.nbytes for parameter in self._network.parameters())
        buffers = sum(buffer.nbytes for buffer in self._network.buffers())
        return COPIES * parameters + buffers + self._teacher_fixed


_KINDS: Final = ("value", "momentum")


def _probes_that_fit(sample_bytes: int, free: int | None) -> int:
    """Samples that the teacher may take at once, with three quarters of the memory to spare."""
    return NUM_PROBES if free is None else max(LEAST_PART, free // (4 * max(1, sample_bytes)))


def _sliced(tensor: torch.Tensor, axes: Mapping[int, IntArray]) -> torch.Tensor:
    for axis, positions in axes.items():
        tensor = tensor.index_select(axis, torch.from_numpy(positions).to(tensor.device))
    return tensor


def _array(tensor: torch.Tensor) -> AnyArray:
    found: AnyArray = tensor.detach().cpu().contiguous().numpy().copy()
    return found
