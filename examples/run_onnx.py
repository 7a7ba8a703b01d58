"""Run two ONNX classifiers over held-out samples in ONNX Runtime, outside the service, and print their accuracies.

python examples/run_onnx.py ORIGINAL.onnx PRUNED.onnx DATA.npz
"""

import sys

import numpy as np
import onnxruntime as ort

BATCH_SIZE = 64


def accuracy(network: str, data: str) -> float:
    """Return the share of `x_val` that the network labels as `y_val`."""
    session = ort.InferenceSession(network, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    arrays = np.load(data)
    x, y = arrays["x_val"], arrays["y_val"]
    guesses = [session.run(None, {name: x[i : i + BATCH_SIZE]})[0].argmax(1) for i in range(0, len(x), BATCH_SIZE)]
    return float((np.concatenate(guesses) == y).mean())


if __name__ == "__main__":
    original, pruned, samples = sys.argv[1:4]
    print(f"ONNX Runtime, held-out samples: {accuracy(original, samples):.1%} -> {accuracy(pruned, samples):.1%}")
