"""Train a small residual network on scikit-learn's digits and export it to ONNX, as a user of any framework would.

    python examples/digits.py OUT

writes OUT/digits.onnx (input `image`, N x 1 x 8 x 8 float32 in 0..1; output `logits`) and OUT/digits.npz with arrays
`x, y` for training and `x_val, y_val` held out. The 1,797 images are real scans that ship with scikit-learn.
"""

import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

EPOCHS = 12
BATCH_SIZE = 64
VALIDATION_IMAGES = 450


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut, projected where width or stride changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        same = channels_in == channels_out and stride == 1
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return relu(branch + shortcut)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def network() -> nn.Module:
    """Return an untrained residual network of three stages."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        Block(32, 32, 1), Block(32, 64, 2), Block(64, 128, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def digits(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return shuffled images (1797, 1, 8, 8) in 0..1 and their labels."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    return (images[order].reshape(-1, 1, 8, 8) / 16).astype(np.float32), labels[order].astype(np.int64)


def train(net: nn.Module, x: np.ndarray, y: np.ndarray, seed: int) -> None:
    """Train `net` with cross-entropy."""
    steps = EPOCHS * (len(x) // BATCH_SIZE)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=steps)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        picked = rng.choice(len(x), BATCH_SIZE, replace=False)
        loss = nn.functional.cross_entropy(net(torch.from_numpy(x[picked])), torch.from_numpy(y[picked]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def main(out: Path) -> None:
    """Train, export and write the data."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    x, y = digits(seed=0)
    x_val, y_val = x[:VALIDATION_IMAGES], y[:VALIDATION_IMAGES]
    x, y = x[VALIDATION_IMAGES:], y[VALIDATION_IMAGES:]
    net = network()
    train(net, x, y, seed=0)
    net.eval()
    with torch.no_grad():
        accuracy = float((net(torch.from_numpy(x_val)).argmax(1).numpy() == y_val).mean())
    out.mkdir(parents=True, exist_ok=True)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it mentions packages that are not needed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (torch.from_numpy(x_val[:2]),), out / "digits.onnx", input_names=["image"], output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False, verbose=False,
        )  # fmt: skip
    np.savez_compressed(out / "digits.npz", x=x, y=y, x_val=x_val, y_val=y_val)
    print(f"trained on {len(x)} images, {accuracy:.1%} of {len(x_val)} held-out images right")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
