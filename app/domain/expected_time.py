"""How long a job is expected to take, from the speed that its network showed in the analysis.

Every phase is counted in forward passes of the original network, priced as the analysis timed them, and in a little
time per group and per step, which is what small networks take. The counts were fitted by hand to a digits network of
3 million multiply-adds and to ResNet-56; `python -m benchmarks.expected_time` holds forecasts beside jobs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

from app.domain.methods import JobSpec

SPREAD: Final = 2.0  # the forecast is given as a range: a half to the double
BATCH: Final = 64  # samples per run outside of training
SYNTHETIC_SAMPLES: Final = 1024  # where there is no data
HELD_OUT_SHARE: Final = 0.1
CALIBRATION_SAMPLES: Final = 512

# Passes over the calibration samples, and seconds for each group.
SCORE: Final[Mapping[str, tuple[float, float]]] = {
    "auto": (3.0, 0.3), "easiedge": (10.0, 0.0), "lcp": (100.0, 0.0), "magnitude": (0.0, 0.0), "random": (0.0, 0.0),
}  # fmt: skip
COMPENSATE: Final = (5.0, 0.1)
STARTING_SECONDS: Final = 4.0  # the process, its imports, the file
MEASURING_SECONDS: Final = 3.0
STEP_SECONDS: Final = 0.07  # of a training step, beside its arithmetic
MIXED_PRECISION: Final = 0.35  # of the time that training in float32 would take
# The default budget of fine-tuning; the recipe of the engine has the same figures, and a test holds them together.
BATCH_SIZE: Final = 128
MIN_STEPS: Final = 40
MAX_STEPS: Final = 600
MAX_EPOCHS: Final = 30
WORK_MACS: Final = 9e12
NODE_MACS: Final = 5e7


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a network and its data before a job."""

    seconds_per_run: float
    seconds_per_sample: float
    macs: int
    num_nodes: int
    num_groups: int
    num_samples: int

    @classmethod
    def of(cls, analysis: Mapping[str, Any], num_samples: int | None) -> "Known | None":
        """Give what an analysis says; None where it timed nothing."""
        speed = analysis.get("speed")
        if not isinstance(speed, Mapping):
            return None
        return cls(
            seconds_per_run=speed["seconds_per_run"],
            seconds_per_sample=speed["seconds_per_sample"],
            macs=analysis["macs"],
            num_nodes=analysis["num_nodes"],
            num_groups=len(analysis["prunable_groups"]),
            num_samples=num_samples or SYNTHETIC_SAMPLES,
        )

    def forward(self, num_samples: float, batch: int = BATCH) -> float:
        """Give the seconds of a forward pass over some samples, so many at a time."""
        return ceil(num_samples / batch) * self.seconds_per_run + num_samples * self.seconds_per_sample


def forecast(spec: JobSpec, known: Known, shares: Sequence[float]) -> Mapping[str, Any] | None:
    """Forecast a job by the shares of the MACs that its targets leave.

    Units: seconds on a worker like the one that analysed the model. None for methods that train while they prune,
    whose rounds depend on what they find, and for jobs that search for their own target.
    """
    if spec.method not in SCORE or not shares or spec.max_accuracy_drop is not None:
        return None
    calibration = known.forward(min(CALIBRATION_SAMPLES, known.num_samples))
    phases = {
        "load": STARTING_SECONDS,
        "score": _seconds(SCORE[spec.method], calibration, known),
        "compensate": len(shares) * _seconds(COMPENSATE, calibration, known),
        "finetune": sum(_finetuning(spec, known, remains) for remains in shares),
        "verify": len(shares) * 4 * known.forward(known.num_samples * HELD_OUT_SHARE),
        "measure": len(shares) * MEASURING_SECONDS,
    }
    middle = sum(phases.values())
    return {
        "seconds": [round(middle / SPREAD, 1), round(middle * SPREAD, 1)],
        "phases": {name: round(seconds, 1) for name, seconds in phases.items()},
        "assumption": "a worker as fast as the one that analysed the model, with nothing else to do",
    }


def _seconds(count: tuple[float, float], calibration: float, known: Known) -> float:
    passes, per_group = count
    return passes * calibration + per_group * known.num_groups


def _finetuning(spec: JobSpec, known: Known, remains: float) -> float:
    """Steps of the default budget or of the request, each three passes of the student and one of the teacher."""
    trained = max(1, round(known.num_samples * (1 - HELD_OUT_SHARE)))
    batch = min(spec.finetune.batch_size or BATCH_SIZE, trained)
    passes = (3 * remains + 1) * MIXED_PRECISION
    return _steps(spec, known, batch, trained, remains) * (passes * known.forward(batch, batch) + STEP_SECONDS)


def _steps(spec: JobSpec, known: Known, batch: int, trained: int, remains: float) -> int:
    per_epoch = max(1, trained // batch)
    if spec.finetune.steps is not None:
        return spec.finetune.steps
    if spec.finetune.epochs is not None:
        return max(1, round(spec.finetune.epochs * per_epoch))
    step_macs = batch * (3 * remains + 1) * known.macs + NODE_MACS * known.num_nodes
    return min(max(int(WORK_MACS / step_macs), MIN_STEPS), MAX_STEPS, MAX_EPOCHS * per_epoch)
