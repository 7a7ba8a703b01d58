"""Engine errors in one tree. Each message says what, where, the actual and the allowed value, and what to do.

PruningError
    InvalidGraph          the upload is not a graph we can read      (load, caps)
        GraphTooLarge     a static cap is exceeded
        UnsupportedOpset  an opset we do not run
        ExternalData      weights outside the file
        UnknownShape      an input or value without a usable shape
    UnsupportedOperator   the executor has no such operator          (execute)
    InconsistentGroup     labels contradict each other               (groups)
    NothingToPrune        no channel may be removed                  (groups)
    TargetUnreachable     even the floor is above the target         (allocation)
    LatencyNotAimedAt     the method cannot aim at a latency         (methods)
    SurgeryCheckFailed    cut and masked networks differ             (surgery)
    NonFiniteScore        NaN or infinity in scores or weights       (scores, load)
    InvalidDataset        the data cannot be used with this network  (training.data)
    TrainingDiverged      the loss is no longer finite               (training)
    OutOfMemory           the attempt needs more than it may use     (anywhere)
    ParityFailed          torch and ONNX Runtime disagree            (export)
    UnstableTiming        timings too noisy to state                 (measure)
    DeviceGone            a device did not answer in time            (stopwatches)
    DeviceRefused         a device cannot load or run a network      (stopwatches)

A class lives here because two stages may raise it; what is particular to one stage is said in its message.
"""

from typing import ClassVar, Final


class PruningError(Exception):
    """Base of everything the engine refuses: what, where, actual, allowed, advice."""

    code: ClassVar[str] = "pruning-error"
    title: ClassVar[str] = "Pruning failed"

    def __init__(
        self, detail: str, *, where: str = "", actual: object = None, allowed: object = None, advice: str = ""
    ) -> None:
        self.detail = detail
        self.where = where
        self.actual = actual
        self.allowed = allowed
        self.advice = advice
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """The parts that are present, in one line."""
        parts = [self.detail.rstrip(".")]
        if self.where:
            parts.append(f"at {self.where}")
        if self.actual is not None:
            parts.append(f"found {self.actual}")
        if self.allowed is not None:
            parts.append(f"allowed {self.allowed}")
        text = "; ".join(parts) + "."
        return f"{text} {self.advice}" if self.advice else text


class InvalidGraph(PruningError):
    """The upload is not an ONNX graph we can read."""

    code = "invalid-model"
    title = "The model is not a readable ONNX file"


class GraphTooLarge(InvalidGraph):
    """A static cap is exceeded before anything ran."""

    code = "model-too-large"
    title = "The model exceeds a static limit"


class UnsupportedOpset(InvalidGraph):
    """An opset that this engine does not run."""

    code = "unsupported-opset"
    title = "The model uses an unsupported opset"


class ExternalData(InvalidGraph):
    """Weights are stored outside the file."""

    code = "external-data"
    title = "The model keeps weights in another file"


class UnknownShape(InvalidGraph):
    """An input or value whose shape cannot be inferred."""

    code = "unknown-shape"
    title = "A shape is unknown"


class UnsupportedOperator(PruningError):
    """The executor has no such operator, so the network cannot be run for scoring or training."""

    code = "unsupported-operator"
    title = "The model uses an operator that cannot be run"


class InconsistentGroup(PruningError):
    """Labels contradict each other: our mistake, never a guess."""

    code = "inconsistent-group"
    title = "Channel analysis contradicts itself"


class NothingToPrune(PruningError):
    """No channel of this graph may be removed."""

    code = "nothing-to-prune"
    title = "Nothing in this model can be pruned"


class TargetUnreachable(PruningError):
    """Even with every group at its floor the cost is above the target."""

    code = "target-unreachable"
    title = "The target cannot be reached"


class LatencyNotAimedAt(PruningError):
    """A latency was given as target to a method that cannot aim at one."""

    code = "latency-not-aimed-at"
    title = "The method cannot aim at a latency"


class SurgeryCheckFailed(PruningError):
    """The cut network and the masked original differ."""

    code = "surgery-check-failed"
    title = "The cut network does not equal the masked original"


class NonFiniteScore(PruningError):
    """NaN or infinity in weights, scores or activations."""

    code = "non-finite-values"
    title = "The model contains NaN or infinite values"


class InvalidDataset(PruningError):
    """The data cannot be used with this network."""

    code = "invalid-dataset"
    title = "The dataset cannot be used"


class TrainingDiverged(PruningError):
    """The loss is no longer finite."""

    code = "training-diverged"
    title = "Fine-tuning diverged"


class OutOfMemory(PruningError):
    """The attempt needs more memory than it may use."""

    code = "out-of-memory"
    title = "Not enough memory"


class ParityFailed(PruningError):
    """torch and ONNX Runtime disagree on the exported network."""

    code = "parity-failed"
    title = "The exported network does not equal the trained one"


class UnstableTiming(PruningError):
    """Timings too noisy to state."""

    code = "unstable-timing"
    title = "The latency could not be measured"


class DeviceGone(PruningError):
    """A device was asked to time networks and did not answer in the time allowed."""

    code = "device-gone"
    title = "The device did not answer"


class DeviceRefused(PruningError):
    """A device could not load or run a network; its runtime's own words are in the message."""

    code = "measurement-failed"
    title = "The device could not measure the network"


# What allocators say that do not raise MemoryError: torch on CPU and CUDA, ONNX Runtime, the C++ library, pthreads.
_NO_MEMORY: Final = (
    "not enough memory", "can't allocate memory", "cannot allocate memory", "failed to allocate memory",
    "out of memory", "bad_alloc", "bad allocation", "can't start new thread",
)  # fmt: skip


def says_no_memory(error: Exception) -> bool:
    """Whether an exception of any library means that memory ran out."""
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in _NO_MEMORY)
