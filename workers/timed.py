"""What the original and a pruned network take on every device of a job, timed in turn, once the file is made.

The artifact exists by then, so a device that stays away or refuses the network costs its figures and a warning, never
the job.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from workers import result
from workers.prune_spec import LOCAL, PruneSpec
from workers.pruning.errors import DeviceGone, DeviceRefused, InvalidGraph, PruningError, UnstableTiming
from workers.pruning.graph import load
from workers.pruning.measure.stats import Comparison, compare, median, unstable
from workers.pruning.measure.stopwatch import LocalStopwatch
from workers.pruning.methods.task import Task
from workers.pruning.types import Json, Measurement, Phase, Stopwatch, TimedNetwork
from workers.stopwatch import ServiceStopwatch

_NETWORKS: Final = ("before", "after")
_STATED: Final = ("p50_ms", "p90_ms", "threads", "batch", "provider", "runtime", "runtime_version")
Pair = Mapping[str, Measurement]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Both networks on every device that answered."""

    pairs: Mapping[str, Pair]  # by device
    problems: Mapping[str, str]  # of the devices that did not answer
    called: Mapping[str, Mapping[str, Json]]  # what users call the devices

    @property
    def local(self) -> Pair:
        """Both networks on the worker's own processor; empty where that could not tell."""
        return self.pairs.get(LOCAL, {})

    def comparison(self) -> Json:
        """State the latency ratio on the worker's own processor."""
        return result.comparison_json(compare(**self.local)) if self.local else None

    def warnings(self) -> tuple[str, ...]:
        """Say which latencies are not stated, and which cannot be trusted."""
        missing = [f"Latency on {device} is not stated: {problem}" for device, problem in self.problems.items()]
        doubts = compare(**self.local).warnings if self.local else ()
        return (*missing, *(f"Latency is not stable, {doubt}." for doubt in doubts))

    def devices(self) -> list[Json]:
        """State both networks on each device, the worker's own processor first."""
        return [self._device(name) for name in (*self.pairs, *self.problems)]

    def _device(self, name: str) -> dict[str, Json]:
        known = self.called.get(name, {})
        stated: dict[str, Json] = {"device": name, "name": known.get("name") or name}
        if name in self.problems:
            return {**stated, "problem": {"detail": self.problems[name]}}
        before, after = (self.pairs[name][side] for side in _NETWORKS)
        compared = _compared(before, after)
        return {
            **stated,
            "processor": known.get("processor") or before.host.get("cpu"),
            "before": _side(before),
            "after": _side(after),
            "ratio": compared.ratio.value,
            "ratio_interval": [compared.ratio.low, compared.ratio.high],
            "speedup": 1 / compared.ratio.value,
            "is_real": compared.is_real,
            "alone": before.host.get("alone"),
            "doubts": list(compared.warnings),
        }


@dataclass(slots=True, kw_only=True)
class Timer:
    """Times the artifacts of a job one after the other; a device that stayed away once is not waited for again."""

    spec: PruneSpec
    task: Task
    _lost: dict[str, str] = field(default_factory=dict)

    def time(self, before: bytes, after: bytes) -> Timed:
        """Time both networks on every device of the job: on this host first, then on the others at the same time."""
        contents = dict(zip(_NETWORKS, (before, after), strict=True))
        devices = (LOCAL, *(name for name in self.spec.devices if name != LOCAL)) if self.spec.measure else ()
        pairs: dict[str, Pair] = {}
        problems: dict[str, str] = {}
        here, there = devices[:1], [name for name in devices[1:] if name not in self._lost]
        self.task.run.report(Phase.MEASURE, 0.0)
        with ThreadPoolExecutor(max(1, len(there))) as pool:
            answers = [self._pair(name, contents) for name in here]
            answers += pool.map(lambda name: self._pair(name, contents), there)
        for name, answer in zip((*here, *there), answers, strict=True):
            if isinstance(answer, PruningError):
                problems[name] = answer.message
                if isinstance(answer, DeviceGone):
                    self._lost[name] = answer.message
            else:
                pairs[name] = answer
        return Timed(pairs=pairs, problems={**problems, **self._lost}, called=self.spec.called)

    def _pair(self, device: str, contents: Mapping[str, bytes]) -> Pair | PruningError:
        networks = [TimedNetwork(name=name, content=content, kind="network") for name, content in contents.items()]
        stopwatch = self.task.run.stopwatches.get(device)
        if stopwatch is None and device != LOCAL:
            return DeviceGone(f"{device} cannot be asked without a service", where=device)
        try:
            return shaped(stopwatch or LocalStopwatch(), self.task).time(networks)
        except (UnstableTiming, DeviceGone, DeviceRefused) as error:
            return error
        except InvalidGraph as error:  # of this process's own runtime; a service says that its device refused
            return DeviceRefused(error.detail, where=device, actual=error.actual)


def shaped(stopwatch: Stopwatch, task: Task) -> Stopwatch:
    """Give a stopwatch that knows how long the free axes of this job's samples are."""
    if not isinstance(stopwatch, ServiceStopwatch | LocalStopwatch):
        return stopwatch
    specs = {spec.name: spec.shape for spec in load.input_specs(task.graph)}
    free = {name for name, shape in specs.items() if not all(isinstance(length, int) for length in shape[1:])}
    given = {name: shape for name, shape in _shapes(task).items() if name in free} if free else {}
    return replace(stopwatch, shapes={name: (stopwatch.batch, *shape[1:]) for name, shape in given.items()})


def in_lengths(task: Task) -> Task:
    """Give a task whose stopwatches know the same, for methods that ask devices on the way."""
    watches = {device: shaped(stopwatch, task) for device, stopwatch in task.run.stopwatches.items()}
    return replace(task, run=replace(task.run, stopwatches=watches))


def _shapes(task: Task) -> dict[str, tuple[int, ...]]:
    sample = task.data.validation.batch(np.zeros(1, np.int64))
    specs = load.input_specs(task.graph)
    return {spec.name: array.shape for spec, array in zip(specs, sample, strict=True)}


def _compared(before: Measurement, after: Measurement) -> Comparison:
    """Compare two networks; an agent that ran out of time leaves one of them a run behind."""
    count = min(len(before.samples_ms), len(after.samples_ms))
    return compare(*(replace(one, samples_ms=one.samples_ms[:count]) for one in (before, after)))


def _side(measured: Measurement) -> dict[str, Any]:
    middle = median(measured.samples_ms)
    stated = {name: getattr(measured, name) for name in _STATED}
    return {**stated, "p50_interval_ms": [middle.low, middle.high], "unstable": list(unstable(measured))}
