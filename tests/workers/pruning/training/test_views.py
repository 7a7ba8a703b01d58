"""Small changes of images: which are made, and which the original is asked about first."""

import numpy as np
import torch

from workers.pruning.training.views import batch_indices, shift_and_flip, understood


def ramp(num_samples=16, side=16):
    """Images whose every pixel is unique."""
    return torch.arange(num_samples * side * side, dtype=torch.float32).reshape(num_samples, 1, side, side)


def test_no_view_is_no_change():
    """With no shift and no flip the images stay."""
    images = ramp()
    seen = shift_and_flip(images, np.random.default_rng(0), max_shift=0, flip=False)

    assert torch.equal(images, seen)


def test_shift_repeats_the_border():
    """A shifted image holds no value that the image did not have."""
    images = ramp()
    seen = shift_and_flip(images, np.random.default_rng(0), max_shift=2, flip=False)

    assert all(
        set(after.flatten().tolist()) <= set(before.flatten().tolist())
        for before, after in zip(images, seen, strict=True)
    )
    assert not torch.equal(images, seen)


def test_flip_mirrors_some_samples_whole():
    """Every sample is either itself or its mirror image, and both occur."""
    images = ramp()
    seen = shift_and_flip(images, np.random.default_rng(0), max_shift=0, flip=True)
    kept = [torch.equal(before, after) for before, after in zip(images, seen, strict=True)]
    mirrored = [torch.equal(before.flip(2), after) for before, after in zip(images, seen, strict=True)]

    assert all(a or b for a, b in zip(kept, mirrored, strict=True))
    assert any(kept) and any(mirrored)


def test_views_are_those_the_original_understands():
    """A network that only compares the two halves of an image is not shown mirror images."""

    def left_is_brighter(images):
        return (images[..., :8].mean((1, 2, 3)) > images[..., 8:].mean((1, 2, 3))).long()

    images = torch.rand(64, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    images[::2, ..., :8] += 2.0
    images[1::2, ..., 8:] += 2.0

    assert understood(images, left_is_brighter) == (1, False)


def test_tiny_images_are_left_alone():
    """Below 16 pixels there is no room for a view."""
    assert understood(torch.rand(4, 1, 8, 8), lambda images: images.sum((1, 2, 3)) > 0) == (0, False)


def test_an_epoch_shows_each_sample_at_most_once():
    """The batches of one epoch are disjoint, and another epoch has another order."""
    epoch = [batch_indices(0, step, batch_size=8, num_samples=35) for step in range(4)]
    following = batch_indices(0, 4, batch_size=8, num_samples=35)

    assert len(set(np.concatenate(epoch).tolist())) == 32
    assert following.tolist() != epoch[0].tolist()


def test_batches_depend_on_seed_and_step_alone():
    """The same seed and step give the same batch; another seed gives another."""
    drawn = [batch_indices(seed, 5, batch_size=8, num_samples=35).tolist() for seed in (1, 1, 2)]

    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
