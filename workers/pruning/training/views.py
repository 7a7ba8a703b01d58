"""Small changes of image inputs that show the original and the pruned network more than the stored samples.

Both networks see the same view, so a view needs no label to be right; it only has to be one that the original still
understands. Whether it does is asked of the original itself, so digits are not mirrored and photographs are.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch

from workers.pruning.types import IntArray

NUM_GROUPS: Final = 8  # one shift per group: one shift per batch makes batch statistics jump from step to step
MIN_SIDE: Final = 16  # smaller inputs have no room for a shift
SHIFT_FRACTION: Final = 1 / 16
AGREEMENT: Final = 0.9
ORDER_STREAM: Final = 201  # keeps these draws apart from others of the same seed

Predict = Callable[[torch.Tensor], torch.Tensor]  # images to classes, by the original network


def shift_and_flip(images_NCHW: torch.Tensor, rng: np.random.Generator, *, max_shift: int, flip: bool) -> torch.Tensor:
    """Shift groups of samples by at most `max_shift` pixels each way, and mirror about half the samples.

    Border pixels repeat, so no value appears that the images do not have. Shapes: (N, C, H, W) to the same.
    """
    if max_shift:
        groups = [
            _shifted(group, *rng.integers(-max_shift, max_shift + 1, size=2))
            for group in torch.tensor_split(images_NCHW, NUM_GROUPS)
        ]
        images_NCHW = torch.cat(groups)
    if flip:
        mirrored = torch.from_numpy(rng.random(len(images_NCHW)) < 0.5).to(images_NCHW.device)
        images_NCHW = torch.where(mirrored[:, None, None, None], images_NCHW.flip(3), images_NCHW)
    return images_NCHW


def understood(images_NCHW: torch.Tensor, predict: Predict, *, answers: torch.Tensor | None = None) -> tuple[int, bool]:
    """Give the largest shift to use (0 for none) and whether to mirror: views on which the original keeps its answer.

    A view is used when at least nine of ten answers on the first training samples stay the same; `answers` are those
    on the images as they are, where they are known.
    """
    height, width = images_NCHW.shape[2:]
    if min(height, width) < MIN_SIDE:
        return 0, False
    answers = predict(images_NCHW) if answers is None else answers

    def kept(view: torch.Tensor) -> float:
        return float((predict(view) == answers).double().mean())

    max_shift = max(1, round(min(height, width) * SHIFT_FRACTION))
    shifts_fine = min(kept(_shifted(images_NCHW, max_shift, max_shift)), kept(_shifted(images_NCHW, -max_shift, 0)))
    return (max_shift if shifts_fine >= AGREEMENT else 0), kept(images_NCHW.flip(3)) >= AGREEMENT


def batch_indices(seed: int, step: int, *, batch_size: int, num_samples: int) -> IntArray:
    """Give the samples of one step: every epoch is its own seeded permutation, the incomplete last batch left out."""
    steps_per_epoch = max(1, num_samples // batch_size)
    epoch, position = divmod(step, steps_per_epoch)
    order = np.random.default_rng([seed, ORDER_STREAM, epoch]).permutation(num_samples)
    return order[position * batch_size : (position + 1) * batch_size].astype(np.int64)


def _shifted(images_NCHW: torch.Tensor, down: int, right: int) -> torch.Tensor:
    height, width = images_NCHW.shape[2:]
    rows = torch.arange(height, device=images_NCHW.device).sub(int(down)).clamp(0, height - 1)
    columns = torch.arange(width, device=images_NCHW.device).sub(int(right)).clamp(0, width - 1)
    return images_NCHW[:, :, rows][:, :, :, columns]
