"""How arrays reach a GraphModule."""

import numpy as np
import torch

from tests.workers.pruning.seeded import RESIDUAL, answers, images, loaded
from workers.pruning.graph.feed import frozen_module, tensors


def test_images_keep_their_shape_and_are_stored_channels_last() -> None:
    """Only the layout in memory changes, and only of images; half precision is computed in float32."""
    picture, vector = tensors([images(2), np.ones((2, 5), np.float16)], "cpu")

    assert picture.shape == (2, 3, 8, 8)
    assert picture.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(picture.numpy(), images(2))
    assert vector.dtype is torch.float32


def test_a_frozen_module_answers_like_the_graph() -> None:
    """Nothing of it asks for gradients, and it uses stored statistics."""
    graph, x = loaded(RESIDUAL), images(4)
    module = frozen_module(graph, "cpu")

    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not module.training
    np.testing.assert_allclose(module.run(tensors([x], "cpu"))[0].numpy(), answers(graph, x)[0], atol=1e-5)
