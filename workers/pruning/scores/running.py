"""Gate scores that come with training: what the loss feels of each unit, averaged over the steps."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from workers.pruning.scores.collect import Edit, Site, gradient_edits
from workers.pruning.types import FloatArray

DECAYS: Final = (0.9, 0.5)


class RunningScores:
    """Exponential averages of the mean square of per-sample gate gradients, a slow and a fast one.

    Source: empirical Fisher information of the loss, S <- 0.9 S + 0.1 mean_b g_b^2, with g the gradient of a sample's
    loss in a gate of 1 where the unit is read: the sum over positions and readers of value times gradient. It is taken
    off the backward pass that training makes anyway: a reader gets a view of its input, and a hook on the view sees
    that reader's gradient; nothing is multiplied in and nothing more is kept. BatchNormalization is in training mode
    here, so samples are coupled slightly. Differs: a unit is worth the lesser of two averages, with 0.9 and with 0.5.
    A unit that stops answering has often had its largest gradients just before; the slow average alone ranks it above
    those that work for a hundred steps more.
    """

    def __init__(self, num_units: int, device: str, averages: FloatArray | None = None) -> None:
        """`averages` continues where those of an earlier attempt were."""
        start = np.zeros((len(DECAYS), num_units)) if averages is None else averages
        self._averages = torch.from_numpy(np.array(start, np.float64)).to(device)
        self._decays = torch.tensor(DECAYS, dtype=torch.float64, device=device)[:, None]
        self._gradients: torch.Tensor | None = None

    @property
    def averages(self) -> FloatArray:
        """Both averages as they are now. Shapes: (2, num_units)."""
        found: FloatArray = self._averages.cpu().numpy().copy()
        return found

    @property
    def values(self) -> FloatArray:
        """What each unit is worth now. Shapes: (num_units,)."""
        found: FloatArray = self.averages.min(axis=0)
        return found

    def edits(self, sites: Sequence[Site], num_samples: int) -> dict[tuple[str, int], Edit]:
        """Give the edits for `GraphModule.run` of one training step with this batch."""
        gradients = torch.zeros(num_samples, self._averages.shape[1], device=self._averages.device)
        self._gradients = gradients
        return gradient_edits(sites, gradients)

    def take(self) -> None:
        """Add the step whose backward pass is over; its loss was a mean over the batch."""
        if self._gradients is None:
            return
        per_sample = self._gradients.double() * len(self._gradients)
        self._averages = self._decays * self._averages + (1 - self._decays) * per_sample.square().mean(0)
        self._gradients = None
