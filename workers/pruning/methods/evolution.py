"""Regularised evolution over per-layer latents: a pool in which the oldest dies, not the worst.

The search knows nothing of networks: it draws latents, asks what they are worth and remembers. The draws of evaluation
i depend on the seed and on i alone, so a search that was killed continues from its last record with the same result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from workers.pruning.types import AnyArray, FloatArray, Json, Memo, Run

POOL: Final = 64
SAMPLE: Final = 16
MUTATED_SHARE: Final = 0.1
RECORD_EVERY: Final = 20
STREAM: Final = 301  # keeps these draws apart from others of the same seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Latents:
    """What is done to the scores of each layer: s' = scale * s + shift."""

    scale: FloatArray  # (layers,)
    shift: FloatArray  # (layers,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Latents, what they are worth (less is better), and which evaluation it was."""

    latents: Latents
    loss: float
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How long and how wide the search is."""

    evaluations: int
    patience: int | None = None  # evaluations without a new best after which it stops; None: never
    affine: bool = False  # LeGR evolves scale and shift, LcP the shift alone
    pool: int = POOL
    brood: int = 1  # children of one pool; the authors have 1
    sample: int = SAMPLE
    mutated_share: float = MUTATED_SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What a search found and how it went."""

    best: Member
    pool: tuple[Member, ...]  # oldest first
    losses: tuple[float, ...]  # of every evaluation, in order
    finished: bool = False


def initial(number: int, deviations: FloatArray, settings: Settings, rng: np.random.Generator) -> Latents:
    """Draw a member of the first pool; the last one is the identity, so the plain ranking is always among them.

    Source: authors' code of LeGR: scale exp(N(0, 1)), shift N(0, deviation of the layer's base scores).
    """
    num_layers = len(deviations)
    if number == settings.pool - 1:
        return Latents(scale=np.ones(num_layers), shift=np.zeros(num_layers))
    scale = np.exp(rng.standard_normal(num_layers)) if settings.affine else np.ones(num_layers)
    return Latents(scale=scale, shift=rng.standard_normal(num_layers) * deviations)


def mutated(
    parent: Latents, deviations: FloatArray, step: float, settings: Settings, rng: np.random.Generator
) -> Latents:
    """Change a tenth of a parent's layers, at least one; the noise of scales is annealed, that of shifts is not.

    Source: authors' code. Differs: there a tenth of few layers rounds to none, and nothing would ever change.
    """
    num_layers = len(deviations)
    count = min(num_layers, max(1, int(settings.mutated_share * num_layers)))
    chosen = rng.choice(num_layers, count, replace=False)
    scale, shift = parent.scale.copy(), parent.shift.copy()
    if settings.affine:
        scale[chosen] *= np.exp(step * rng.standard_normal(count))
    shift[chosen] += rng.standard_normal(count) * deviations[chosen]
    return Latents(scale=scale, shift=shift)


def tournament(pool: Sequence[Member], settings: Settings, rng: np.random.Generator) -> Member:
    """Draw members with replacement and give the one with the lowest loss."""
    drawn = rng.integers(len(pool), size=settings.sample)
    members = [pool[int(index)] for index in drawn]
    return min(members, key=lambda member: (member.loss, member.number))


def search(
    worths: Callable[[Sequence[Latents]], Sequence[float]],
    deviations: FloatArray,
    settings: Settings,
    run: Run,
    *,
    step_name: str,
    note: Callable[[Searched], None] = lambda _: None,
) -> Searched:
    """Find the latents with the lowest worth.

    `worths` values several latents at once, in whatever order it likes: the first pool, then `brood` children of one
    and the same pool at a time. How many are really valued at once changes nothing of the result.

    Source: Real et al. 2018 (regularised evolution) as in the authors' code of LeGR: a first pool of 64, then in every
    step the best of 16 drawn from it is mutated and replaces the oldest; annealing 1 - i / (1.25 x evaluations).
    A worth that is not a number counts as infinitely bad. `note` hears of the state after every evaluation.
    The pool goes to the journal every 20 evaluations and at the end.
    """
    searched = _recalled(run, step_name)
    if searched is not None and searched.finished:
        return searched
    while searched is None or len(searched.losses) < settings.evaluations:
        first = 0 if searched is None else len(searched.losses)
        last = min(_last_of_brood(first, settings), settings.evaluations)
        drawn = [_drawn(number, searched, deviations, settings, run) for number in range(first, last)]
        for number, latents, loss in zip(range(first, last), drawn, worths(drawn), strict=True):
            member = Member(latents=latents, loss=loss if np.isfinite(loss) else np.inf, number=number)
            searched = _after(searched, member, settings)
            note(searched)
        if searched is None or _tired(searched, settings):
            break
        if last // RECORD_EVERY > first // RECORD_EVERY and last < settings.evaluations:
            run.journal.record(step_name, _memo(searched))
    if searched is None:
        raise ValueError("a search needs at least one evaluation")
    searched = replace(searched, finished=True)
    run.journal.record(step_name, _memo(searched))
    return searched


def _last_of_brood(first: int, settings: Settings) -> int:
    """Where the brood of evaluation `first` ends: broods lie at fixed numbers, so resuming changes none."""
    if first < settings.pool:
        return min(first + RECORD_EVERY, settings.pool)
    return first + settings.brood - (first - settings.pool) % settings.brood


def _drawn(number: int, searched: Searched | None, deviations: FloatArray, settings: Settings, run: Run) -> Latents:
    """The latents of one evaluation: of the first pool, or a child of the best of some of the pool."""
    rng = np.random.default_rng([run.seed, STREAM, number])
    if searched is None or number < settings.pool:
        return initial(number, deviations, settings, rng)
    step = 1.0 - number / (1.25 * settings.evaluations)
    return mutated(tournament(searched.pool, settings, rng).latents, deviations, step, settings, rng)


def _after(before: Searched | None, member: Member, settings: Settings) -> Searched:
    if before is None:
        return Searched(best=member, pool=(member,), losses=(member.loss,))
    kept = before.pool if len(before.pool) < settings.pool else before.pool[1:]
    return Searched(
        best=member if member.loss < before.best.loss else before.best,
        pool=(*kept, member),
        losses=(*before.losses, member.loss),
    )


def _tired(searched: Searched, settings: Settings) -> bool:
    """Whether the search goes on in vain; the whole first pool is always looked at."""
    done = len(searched.losses)
    return (
        settings.patience is not None and done >= settings.pool and done - 1 - searched.best.number >= settings.patience
    )


def _memo(searched: Searched) -> Memo:
    members = (*searched.pool, searched.best)
    arrays: dict[str, AnyArray] = {
        "scale": np.stack([member.latents.scale for member in members]),
        "shift": np.stack([member.latents.shift for member in members]),
        "loss": np.asarray([member.loss for member in members]),
        "number": np.asarray([member.number for member in members], np.int64),
        "losses": np.asarray(searched.losses),
    }
    state: dict[str, Json] = {"finished": searched.finished}
    return Memo(arrays=arrays, state=state)


def _recalled(run: Run, step_name: str) -> Searched | None:
    memo = run.journal.recall(step_name)
    if memo is None:
        return None
    columns = (memo.arrays[name] for name in ("scale", "shift", "loss", "number"))
    members = [
        Member(
            latents=Latents(scale=scale.astype(np.float64), shift=shift.astype(np.float64)),
            loss=float(loss),
            number=int(number),
        )
        for scale, shift, loss, number in zip(*columns, strict=True)
    ]
    return Searched(
        best=members[-1],
        pool=tuple(members[:-1]),
        losses=tuple(float(loss) for loss in memo.arrays["losses"]),
        finished=bool(memo.state["finished"]),
    )
