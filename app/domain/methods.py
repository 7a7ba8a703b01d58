"""What a job may ask for: options of each method as frozen models, and the whole request as JobSpec."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from app.domain.target import LOCAL, Metric, Target, Targets
from app.errors import FieldError, InvalidTarget, ValidationFailed, json_pointer

MethodName = Literal["auto", "dynhp", "easiedge", "lcp", "magnitude", "random", "taylor"]
METHOD_NAMES: Final[tuple[MethodName, ...]] = ("auto", "dynhp", "easiedge", "lcp", "magnitude", "random", "taylor")
# Those that choose widths once, from scores: what a device takes can then be measured, and the choice repeated.
LATENCY_METHODS: Final[frozenset[MethodName]] = frozenset({"auto", "easiedge", "lcp", "magnitude", "random"})
_STRICT: Final = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AutoOptions(BaseModel):
    """Optimal-brain-surgeon elimination per cost, compensation, distillation."""

    model_config = _STRICT

    method: Literal["auto"] = Field(default="auto", exclude=True, repr=False)
    order: Literal["obs", "information_gain"] = Field(
        default="obs",
        description="obs: by the damage left after the others are refitted; information_gain: each channel alone.",
    )
    calibration_samples: int = Field(default=512, ge=16, le=65536, description="Of scores; repair takes twice as many.")
    probes: int | None = Field(default=None, ge=1, le=64, description="Of a sample; null: 512 for all, 1 to 4 each.")
    alpha: float = Field(default=1.0, ge=0, le=4, description="Exponent of the cost in score / cost^alpha.")
    compensate: bool = Field(default=True, description="Refit the consumers of cut channels by least squares.")
    without_data: Literal["auto", "noise", "merge"] = Field(
        default="auto",
        description="Without a dataset: merge: cut channels leave their readers to the likest; noise: refit on noise; "
        "auto: both.",
    )


class DynhpOptions(BaseModel):
    """Training in which channels go step by step, within a memory budget (DynHP)."""

    model_config = _STRICT

    method: Literal["dynhp"] = Field(default="dynhp", exclude=True, repr=False)
    memory_budget_bytes: int | None = Field(
        default=None, ge=1, description="Most that training may hold; null: what the usual batch needs at the start."
    )
    reuse_memory: bool = Field(default=True, description="Freed memory goes into larger batches; false: it stays free.")
    from_scratch: bool = Field(default=False, description="Forget the uploaded weights; needs labels.")
    scale_learning_rate: bool = Field(
        default=True, description="The rate grows with the square root of the batch; from scratch also as units go."
    )
    rank_by: Literal["target", "memory"] = Field(
        default="memory", description="Scores are taken over the bytes a channel holds, or what it saves of the target."
    )
    marginal: float = Field(
        default=0.1, ge=0, le=1, description="Share of the median worth below which a channel always goes."
    )
    prune_from: float = Field(default=0.05, ge=0, le=0.9, description="Share of training before the first cut.")
    prune_until: float = Field(default=0.6, ge=0.02, le=0.95, description="Share of training after the last cut.")


class EasiedgeOptions(BaseModel):
    """ADMM between training and a global ranking by information gain."""

    model_config = _STRICT

    method: Literal["easiedge"] = Field(default="easiedge", exclude=True, repr=False)
    gain: Literal["half_fisher", "exact", "linearised", "entropy"] = Field(
        default="half_fisher", description="How information gain is computed; the default serves every kind of output."
    )
    probes: int = Field(default=4, ge=1, le=64, description="Random probes per sample of half_fisher.")
    calibration_samples: int = Field(default=512, ge=16, le=65536, description="Training samples that scores look at.")
    rounds: int = Field(default=6, ge=1, le=100, description="Rounds of ADMM.")
    steps_per_round: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Training steps of a round; null: an epoch, at most 400."
    )
    rho: float = Field(default=1e-3, gt=0, le=100, description="Strength of the pull to the pruned copy, first round.")
    rho_growth: float = Field(default=10**0.5, ge=1, le=100, description="Factor of rho from round to round.")
    rho_max: float = Field(default=0.1, gt=0, le=100, description="Largest rho.")
    learning_rate: float = Field(
        default=0.01, gt=0, le=100, description="Of the first round; a cosine over all rounds."
    )
    alpha: float = Field(default=0.0, ge=0, le=4, description="Exponent of the cost in score / cost^alpha.")
    compensate: bool = Field(default=True, description="Refit the consumers of cut channels by least squares.")


class LcpOptions(BaseModel):
    """Evolution of what is added to each layer's scores (LcP), or of an affine transform of them (LeGR)."""

    model_config = _STRICT

    method: Literal["lcp"] = Field(default="lcp", exclude=True, repr=False)
    mode: Literal["lcp", "legr"] = Field(default="lcp", description="lcp: a shift per layer; legr: scale and shift.")
    preset: Literal["ours", "authors"] = Field(
        default="ours",
        description="ours: compared with the original, no labels; authors: raw cut, cross-entropy on labels.",
    )
    base: Literal["l2", "l1", "taylor", "ig"] = Field(default="l2", description="Scores that are transformed.")
    evaluations: int | None = Field(
        default=None, ge=8, le=100_000, description="Candidates of the search; null: 120, preset authors 400."
    )
    fitness: Literal["recalibrated", "compensated", "raw"] | None = Field(
        default=None,
        description="What is done to a candidate before it is judged; null: recalibrated, preset authors raw.",
    )
    candidate_steps: int = Field(default=0, ge=0, le=10_000, description="Training of a candidate before it is judged.")
    calibration_samples: int = Field(default=512, ge=16, le=65536, description="Training samples of the divergence.")
    compensate: bool | None = Field(
        default=None, description="Refit the consumers of cut channels; null: true, preset authors false."
    )


class MagnitudeOptions(BaseModel):
    """Norm of each channel's filters: a baseline."""

    model_config = _STRICT

    method: Literal["magnitude"] = Field(default="magnitude", exclude=True, repr=False)
    norm: Literal["l1", "l2"] = Field(default="l2", description="Norm over a filter's weights.")
    alpha: float = Field(default=0.0, ge=0, le=4, description="Exponent of the cost in score / cost^alpha.")
    compensate: bool = Field(default=True, description="Refit the consumers of cut channels by least squares.")


class RandomOptions(BaseModel):
    """Channels in a random order: the baseline below all baselines."""

    model_config = _STRICT

    method: Literal["random"] = Field(default="random", exclude=True, repr=False)
    compensate: bool = Field(default=True, description="Refit the consumers of cut channels by least squares.")


class TaylorOptions(BaseModel):
    """Rounds of ranking by Taylor scores, removal and fine-tuning, until accuracy has dropped too far."""

    model_config = _STRICT

    method: Literal["taylor"] = Field(default="taylor", exclude=True, repr=False)
    criterion: Literal["gate", "activation"] = Field(
        default="gate", description="gate: squared gradients (2019); activation: absolute, normalised by layer (2017)."
    )
    share_per_round: float = Field(default=0.04, gt=0, le=1, description="Of all channels, removed in one round.")
    epochs_per_round: float = Field(default=1.0, gt=0, le=1000, description="Fine-tuning after each removal.")
    learning_rate: float = Field(default=0.001, gt=0, le=100, description="Of the fine-tuning within rounds.")
    max_accuracy_drop: float = Field(
        default=0.03, gt=0, le=1, description="On held-back training samples; a round that drops further is undone."
    )
    alpha: float = Field(default=0.0, ge=0, le=4, description="Exponent of the cost in score / cost^alpha.")
    ranking_samples: int = Field(default=4096, ge=16, le=10_000_000, description="Training samples of each ranking.")
    transfer: Literal["auto", "always", "never"] = Field(
        default="auto", description="Train a new last layer first; auto: where the dataset has other classes."
    )
    transfer_epochs: float = Field(default=5.0, gt=0, le=1000, description="Passes over the data of the transfer.")
    transfer_learning_rate: float = Field(default=0.01, gt=0, le=100, description="Of the transfer.")
    sensitivity_epochs: Annotated[tuple[Annotated[float, Field(gt=0, le=1000)], ...], Field(max_length=8)] = Field(
        default=(), description="Repeat all rounds with these epochs_per_round, for the report only."
    )
    folds: int = Field(
        default=0,
        ge=0,
        le=10,
        description="Repeat all rounds with each of so many parts deciding, for the report only.",
    )

    @field_validator("folds")
    @classmethod
    def _two_at_least(cls, folds: int) -> int:
        if folds == 1:
            raise PydanticCustomError(
                "folds", "One part cannot both decide and be learned from; give 0, or 2 and more."
            )
        return folds


MethodOptions = (
    AutoOptions | DynhpOptions | EasiedgeOptions | LcpOptions | MagnitudeOptions | RandomOptions | TaylorOptions
)
OPTIONS: Final[Mapping[MethodName, type[MethodOptions]]] = {
    "auto": AutoOptions,
    "dynhp": DynhpOptions,
    "easiedge": EasiedgeOptions,
    "lcp": LcpOptions,
    "magnitude": MagnitudeOptions,
    "random": RandomOptions,
    "taylor": TaylorOptions,
}


class FinetuneOptions(BaseModel):
    """How the pruned network is trained; null means chosen, and the report says what was chosen."""

    model_config = _STRICT

    steps: int | None = Field(default=None, ge=0, le=10_000_000, description="Optimiser steps; 0 means no training.")
    epochs: float | None = Field(default=None, gt=0, le=100_000, description="Passes over the data, instead of steps.")
    batch_size: int | None = Field(default=None, ge=1, le=65536)
    learning_rate: float | None = Field(default=None, gt=0, le=100)
    distillation: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Weight of the original's answers; the rest is cross-entropy on labels. null: no cross-entropy.",
    )
    temperature: float | None = Field(
        default=None,
        gt=0,
        le=100,
        description="Softens both answers before their divergence is taken; null: squared error of centred logits.",
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise PydanticCustomError("finetune_length", "Give steps or epochs, not both.")
        return self


class ExportOptions(BaseModel):
    """What the artifact must look like."""

    model_config = _STRICT

    round_to: int | None = Field(default=None, ge=1, le=128, description="Kept widths are multiples; null: chosen.")
    min_keep: float = Field(default=0.1, ge=0, le=1, description="Share of each group that always stays.")


class PreprocessingOptions(BaseModel):
    """How a stored sample becomes the model's input: (x * scale - mean) / std, then the input's layout."""

    model_config = _STRICT

    scale: float | None = Field(default=None, gt=0)
    mean: tuple[float, ...] | None = Field(default=None, min_length=1, max_length=4096)
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(default=None, min_length=1, max_length=4096)
    layout: Literal["NHWC", "NCHW"] | None = Field(default=None, description="Of the stored samples.")
    channel_order: Literal["RGB", "BGR"] | None = None
    resize: tuple[Annotated[int, Field(ge=1, le=8192)], Annotated[int, Field(ge=1, le=8192)]] | None = None


class MeasureOptions(BaseModel):
    """How the latencies of a job are measured, and how long it waits for a device that stays away."""

    model_config = _STRICT

    threads: int | None = Field(default=None, ge=1, le=1024, description="Of one run; null: the device's own, else 1.")
    batch: int = Field(default=1, ge=1, le=65536, description="Samples of one run; a fixed batch runs at its own.")
    wait_seconds: int | None = Field(
        default=None, ge=1, le=2_592_000, description="For a device that is silent; null: ESPALIER_DEVICE_WAIT."
    )


_Device = Annotated[str, Field(pattern=r"^dev_[0-9a-z_]{1,36}$")]
_Pattern = Annotated[str, Field(min_length=1, max_length=255)]
_Patterns = Annotated[tuple[_Pattern, ...], Field(max_length=256)]


class JobSpec(BaseModel):
    """A prune job as asked for; `model_dump(mode="json")` is what the job row keeps and the attempt reads."""

    model_config = _STRICT

    model: str = Field(pattern=r"^mdl_[0-9a-z]{1,36}$")
    dataset: str | None = Field(default=None, pattern=r"^dst_[0-9a-z]{1,36}$")
    target: Targets | None = None
    targets: Annotated[tuple[Targets, ...], Field(min_length=1, max_length=16)] | None = Field(
        default=None, description="One artifact per entry, in one job."
    )
    method: MethodName = "auto"
    options: Annotated[MethodOptions, Field(discriminator="method")] = AutoOptions()
    preprocessing: PreprocessingOptions | None = None
    finetune: FinetuneOptions = FinetuneOptions()
    max_accuracy_drop: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="0.03 means three points; each of `targets` holds it by itself. Without any: the smallest within.",
    )
    device: _Device | None = Field(
        default=None, description="Of latency targets that name none, and measured on as well."
    )
    measure: MeasureOptions = MeasureOptions()
    measure_on: Annotated[tuple[_Device, ...], Field(max_length=8)] = Field(
        default=(), description="Devices that measure the original and every artifact before the job ends."
    )
    export: ExportOptions = ExportOptions()
    head: Literal["auto", "classifier", "other"] = Field(
        default="auto", description="What the outputs mean: one score per class, or anything else; auto: found out."
    )
    include: _Patterns = Field(default=(), description="Patterns over node names that may be pruned; empty: all.")
    exclude: _Patterns = Field(default=(), description="Patterns over node names that must stay as they are.")
    seed: int = Field(default=0, ge=0, lt=2**63)
    name: str | None = Field(default=None, min_length=1, max_length=255)
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = Field(
        default=None, max_length=16
    )

    @model_validator(mode="before")
    @classmethod
    def _tag_options(cls, data: Any) -> Any:
        """Options carry no tag on the wire: the job's method is the tag."""
        if not isinstance(data, Mapping):
            return data
        method = data.get("method", "auto")
        options = data.get("options", {})
        if not isinstance(options, Mapping):
            return data
        if method not in METHOD_NAMES:  # that is the error to show; options of an unknown method cannot be judged
            return {**data, "options": {"method": "auto"}}
        tag = options.get("method", method)
        if tag != method:
            raise PydanticCustomError("options_method", "options are for another method than `method` names.")
        return {**data, "options": {**options, "method": method}}

    @field_validator("finetune")
    @classmethod
    def _trained_where_needed(cls, finetune: FinetuneOptions, info: ValidationInfo) -> FinetuneOptions:
        if info.data.get("method") == "dynhp" and finetune.steps == 0:
            raise PydanticCustomError(
                "training_needed",
                "dynhp cuts while it trains: 0 steps leave nothing to do. Leave steps out, or use another method.",
                {"below": "steps"},
            )
        return finetune

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if self.target is not None and self.targets is not None:
            raise PydanticCustomError("target_missing", "Give either target or targets, not both of them.")
        if self.target is None and self.targets is None and self.max_accuracy_drop is None:
            raise PydanticCustomError(
                "target_missing",
                "Give either target or targets, for example target=flops=50%, or max_accuracy_drop alone.",
            )
        return self

    @property
    def target_sets(self) -> tuple[tuple[Target, ...], ...]:
        """What each artifact must hold: one entry for `target`, several for `targets`, an empty one without either."""
        if self.targets is not None:
            return self.targets
        return ((),) if self.target is None else (self.target,)

    def device_of(self, target: Target) -> str:
        """Give the device that a latency target is about."""
        return target.device or self.device or LOCAL

    @property
    def target_devices(self) -> tuple[str, ...]:
        """The devices whose latency is aimed at, each once."""
        aimed = (target for targets in self.target_sets for target in targets if target.metric is Metric.LATENCY_MS)
        return tuple(dict.fromkeys(self.device_of(target) for target in aimed))

    @property
    def devices(self) -> tuple[str, ...]:
        """Every device that the job needs an answer of, each once: those aimed at first."""
        own = () if self.device is None else (self.device,)
        return tuple(dict.fromkeys((*self.target_devices, *own, *self.measure_on)))


def parse_spec(given: object) -> JobSpec:
    """Read a job request.

    Raises:
        InvalidTarget: the target is the only thing wrong; the message shows the grammar.
        ValidationFailed: something else is; `errors` points at each field.
    """
    try:
        return JobSpec.model_validate(given)
    except ValidationError as error:
        raise spec_refusal(error.errors(include_url=False, include_input=False)) from error


def spec_refusal(entries: Sequence[Mapping[str, Any]], prefix: Sequence[str | int] = ()) -> ValidationFailed:
    """Turn pydantic's list of errors into the service's own refusal, with JSON pointers below `prefix`."""
    errors = [
        FieldError(
            pointer=json_pointer([*prefix, *_without_tag(entry["loc"]), *_below(entry)]), message=str(entry["msg"])
        )
        for entry in entries
    ]
    if {entry["type"] for entry in entries} == {"invalid_target"}:
        return InvalidTarget(str(entries[0]["msg"]), errors=errors)
    detail = "; ".join(f"{error.pointer or '/'}: {error.message}" for error in errors[:5])
    return ValidationFailed(f"{len(errors)} field(s) of the request are wrong ({detail}).", errors=errors)


def _below(entry: Mapping[str, Any]) -> list[str]:
    """The field within the one that was looked at, where an error names it."""
    below = entry.get("ctx", {}).get("below")
    return [] if below is None else [str(below)]


def _without_tag(location: Sequence[str | int]) -> list[str | int]:
    """Drop the union's tag that pydantic writes behind `options`: the wire has no such level."""
    parts = list(location)
    if len(parts) > 1 and parts[0] == "options" and parts[1] in METHOD_NAMES:
        del parts[1]
    return parts
