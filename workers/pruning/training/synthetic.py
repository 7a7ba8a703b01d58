"""Inputs where there is no data: seeded Gaussian noise with the statistics that are known. Results are unverified."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from workers.pruning.errors import InvalidDataset, UnknownShape
from workers.pruning.training.preprocessing import network_layout
from workers.pruning.types import AnyArray, FloatArray, IntArray, TensorSpec

SYNTHETIC_STREAM: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseRows:
    """Samples computed when they are asked for: sample i depends on the seed and i alone, and takes no memory.

    Float inputs with image axes are noise whose amplitude falls as 1/f, as it does in photographs; others are white.
    """

    spec: TensorSpec
    num_samples: int
    seed: tuple[int, ...]
    mean: float
    std: float

    def __len__(self) -> int:
        return self.num_samples

    def take(self, indices: IntArray) -> AnyArray:
        """Return the samples asked for."""
        return np.stack([self._sample(int(index)) for index in indices])

    def _sample(self, index: int) -> AnyArray:
        rng = np.random.default_rng([*self.seed, index])
        shape = sample_shape(self.spec)
        if self.spec.dtype == "uint8":
            return rng.integers(0, 256, shape, dtype=np.uint8)
        noise = rng.standard_normal(shape)
        layout = network_layout(self.spec.shape)
        if layout is not None:
            noise = natural(noise, (1, 2) if layout == "NCHW" else (0, 1))
        return (noise * self.std + self.mean).astype(self.spec.dtype)


def natural(noise: FloatArray, axes: tuple[int, int]) -> FloatArray:
    """Weigh the spatial frequencies of white noise by 1/f, then restore mean 0 and variance 1.

    Source: Field, "Relations between the statistics of natural images and the response properties of cortical cells",
    JOSA A 4 (1987): amplitude spectra of natural images fall as about 1/f. The variance is restored in expectation,
    not sample by sample, so that channels keep their differences.
    """
    lengths = [noise.shape[axis] for axis in axes]
    rows, columns = np.meshgrid(*(np.fft.fftfreq(length) for length in lengths), indexing="ij")
    weight = 1 / np.maximum(np.hypot(rows, columns), 1 / max(lengths))
    weight /= math.sqrt(float(np.mean(weight**2)))
    shape = [1] * noise.ndim
    shape[axes[0]], shape[axes[1]] = lengths
    spectrum = np.fft.fft2(noise, axes=axes) * weight.reshape(shape)
    return np.asarray(np.fft.ifft2(spectrum, axes=axes).real, dtype=np.float64)


def noise_rows(
    inputs: Sequence[TensorSpec], *, num_samples: int, seed: int, mean: float, std: float
) -> tuple[NoiseRows, ...]:
    """Give rows of noise for every input of a network.

    Raises:
        UnknownShape: an axis other than the first has no fixed length.
        InvalidDataset: an input takes integers that are no pixels, for which noise would mean nothing.
    """
    for spec in inputs:
        sample_shape(spec)
        if np.dtype(spec.dtype).kind != "f" and spec.dtype != "uint8":
            raise InvalidDataset(
                "This network cannot be pruned without data: an input takes integers",
                where=f"input {spec.name!r}",
                actual=spec.dtype,
                advice="Upload samples.",
            )
    return tuple(
        NoiseRows(spec=spec, num_samples=num_samples, seed=(seed, SYNTHETIC_STREAM, number), mean=mean, std=std)
        for number, spec in enumerate(inputs)
    )


def sample_shape(spec: TensorSpec) -> tuple[int, ...]:
    """Return the shape of one sample.

    Raises:
        UnknownShape: an axis other than the first has no fixed length.
    """
    shape = tuple(length for length in spec.shape[1:] if isinstance(length, int))
    if len(shape) != len(spec.shape) - 1:
        raise UnknownShape(
            "An input has axes of unknown length, so no sample can be made up",
            where=f"input {spec.name!r}",
            actual=list(spec.shape),
            allowed="fixed lengths behind the first axis",
            advice="Upload samples, or export the network with a fixed input size.",
        )
    return shape
