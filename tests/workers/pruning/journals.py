"""Journals and runs for tests: what a service would provide, in memory."""

from dataclasses import dataclass, field

import numpy as np

from workers.pruning.types import Memo, Run


@dataclass
class KeptInMemory:
    """A journal in a dict; arrays are copied, as a file would."""

    memos: dict = field(default_factory=dict)

    def recall(self, step):
        """Return what was recorded."""
        return self.memos.get(step)

    def record(self, step, memo):
        """Keep a copy."""
        arrays = {name: np.array(array) for name, array in memo.arrays.items()}
        self.memos[step] = Memo(arrays=arrays, state=memo.state)


class Killed(Exception):
    """Stands for the death of the process."""


@dataclass
class Watch:
    """A report that keeps what it heard, and may end the run at a fraction of a phase."""

    die_in: object = None
    die_at: float = 2.0
    heard: list = field(default_factory=list)

    def __call__(self, phase, fraction, message="", **metrics):
        """Keep the report."""
        self.heard.append((phase, fraction, message, metrics))
        if phase is self.die_in and fraction >= self.die_at:
            raise Killed


@dataclass
class Ticking:
    """A clock on which every look costs `tick` seconds."""

    tick: float = 0.5
    now: float = 0.0

    def __call__(self):
        """Give the time."""
        self.now += self.tick
        return self.now


def run_of(*, seed=0, report=None, journal=None, tick=0.5):
    """A run on one thread of the CPU."""
    return Run(
        seed=seed,
        num_threads=1,
        device="cpu",
        report=report or Watch(),
        journal=journal or KeptInMemory(),
        clock=Ticking(tick),
    )
