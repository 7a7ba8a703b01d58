"""How fast arithmetic may be: bfloat16 and channels-last where the machine has them and the network bears them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import torch

FLOAT32: Final = "float32"
BFLOAT16: Final = "bfloat16"

NUM_COMPARED: Final = 16  # samples are enough to see what a network bears
MAX_ERROR: Final = 0.05  # of the outputs' standard deviation, root mean square


def fastest(device: str) -> str:
    """Give the precision that this device multiplies fastest; a function of the machine, never of a timing."""
    if device == "cuda":
        return BFLOAT16 if torch.cuda.is_bf16_supported() else FLOAT32
    # Without these instructions bfloat16 is emulated and slower than float32.
    has_bfloat16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # noqa: SLF001 - no public query
    return BFLOAT16 if has_bfloat16 else FLOAT32


@contextmanager
def arithmetic(precision: str, device: str) -> Iterator[None]:
    """Compute convolutions and products in `precision`; weights stay float32."""
    with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == BFLOAT16):
        yield


def bearable(exact: Sequence[torch.Tensor], fast: Sequence[torch.Tensor]) -> bool:
    """Whether outputs in the fast precision are close enough to the exact ones to learn from."""
    for exact_output, fast_output in zip(exact, fast, strict=True):
        if not exact_output.is_floating_point():
            continue
        error = (fast_output.float() - exact_output).square().mean().sqrt()
        spread = exact_output.std(correction=0)
        if not bool(error <= MAX_ERROR * spread):
            return False
    return True


def fastest_borne(
    network: Callable[..., Sequence[torch.Tensor]], inputs: Sequence[torch.Tensor], device: str, *, whole: bool = False
) -> str:
    """Give the fastest precision in which a network still answers nearly what it does in float32.

    The first samples of `inputs` decide; `whole` says that the network takes no fewer than there are.
    """
    fast = fastest(device)
    if fast == FLOAT32:
        return FLOAT32
    few = inputs if whole else [each[:NUM_COMPARED] for each in inputs]
    with torch.no_grad():
        exact = network(*few)
        with arithmetic(fast, device):
            return fast if bearable(exact, network(*few)) else FLOAT32
