"""Timing networks in turn: every sample kept, the host stated, the process left as it was."""

import gc
import os
import statistics

import pytest

from tests import networks
from workers.pruning.errors import InvalidGraph, UnknownShape, UnstableTiming
from workers.pruning.measure.host import host, idlest_cpus
from workers.pruning.measure.latency import RUNS_PER_ROUND, measure
from workers.pruning.measure.stats import compare, quantile

LARGE = networks.CHAIN.replace("8,8]", "64,64]")
FREE = networks.CHAIN.replace("float[N,3,8,8]", "float[N,3,H,W]")


def test_every_sample_is_kept_and_summed_up():
    """Both networks have the same number of samples, and the figures are those of the samples."""
    found = measure({"a": networks.onnx_bytes("chain"), "b": networks.onnx_bytes(LARGE)}, budget_seconds=0.2)

    a, b = found["a"], found["b"]
    assert list(found) == ["a", "b"]
    assert len(a.samples_ms) == len(b.samples_ms) >= 8 * RUNS_PER_ROUND
    assert a.p50_ms == quantile(a.samples_ms, 0.5)
    assert a.p99_ms == quantile(a.samples_ms, 0.99)
    assert a.mean_ms == pytest.approx(statistics.fmean(a.samples_ms))
    assert a.p50_ms <= a.p90_ms <= a.p99_ms
    assert min(a.load_ms, *a.samples_ms) > 0
    assert (a.threads, a.batch, a.runtime, a.provider) == (1, 1, "onnxruntime", "CPUExecutionProvider")


def test_the_slower_network_is_found_slower():
    """64 times the multiply-adds take longer, beyond doubt."""
    found = measure({"small": networks.onnx_bytes("chain"), "large": networks.onnx_bytes(LARGE)}, budget_seconds=0.3)

    compared = compare(found["small"], found["large"])

    assert compared.is_real
    assert compared.ratio.low > 1.5


def test_the_host_is_part_of_the_measurement():
    """Processor, cores, memory, system, versions and pinning stand beside the samples."""
    found = measure({"a": networks.onnx_bytes("chain")}, budget_seconds=0.05)["a"]

    for key in ("cpu", "num_cpus", "memory_bytes", "os", "onnxruntime", "pinned_cpus", "on_cpu_share", "governor"):
        assert key in found.host
    assert found.host["runs_per_round"] == RUNS_PER_ROUND
    assert found.runtime_version == found.host["onnxruntime"]


def test_the_process_is_left_as_it_was():
    """Pinning and the stopped collector end with the measurement, even with a failing one."""
    cpus = os.sched_getaffinity(0)

    measure({"a": networks.onnx_bytes("chain")}, budget_seconds=0.05)
    with pytest.raises(InvalidGraph, match="does not load"):
        measure({"a": b"no network"})

    assert os.sched_getaffinity(0) == cpus
    assert gc.isenabled()


def test_a_fixed_batch_is_used_and_stated():
    """A network for batches of 2 runs at 2, whatever is asked for; a free one at what is asked for."""
    fixed = networks.onnx_bytes(networks.CHAIN.replace("float[N,", "float[2,"))

    found = measure({"fixed": fixed, "free": networks.onnx_bytes("chain")}, batch=3, budget_seconds=0.05)

    assert (found["fixed"].batch, found["free"].batch) == (2, 3)


def test_free_axes_need_a_length():
    """An input with free height and width is refused by axis, and runs with the shape given."""
    network = networks.onnx_bytes(FREE)

    with pytest.raises(UnknownShape, match=r"input 'x', axis 2; found \['N', 3, 'H', 'W'\]"):
        measure({"a": network}, budget_seconds=0.05)
    with pytest.raises(UnknownShape, match=r"input 'x'; found \[1, 4, 8, 8\]; allowed \['N', 3, 'H', 'W'\]"):
        measure({"a": network}, shapes={"x": (1, 4, 8, 8)}, budget_seconds=0.05)
    assert measure({"a": network}, shapes={"x": (1, 3, 8, 8)}, budget_seconds=0.05)["a"].samples_ms


def test_a_network_far_too_slow_for_the_budget_is_refused():
    """Where not even the least number of rounds fits, no latency is stated."""
    with pytest.raises(UnstableTiming, match=r"too slow.*8 rounds"):
        measure({"a": networks.onnx_bytes(LARGE)}, budget_seconds=1e-6)


def test_progress_rises_to_the_end():
    """Progress rises within 0..1."""
    seen = []

    measure({"a": networks.onnx_bytes("chain")}, budget_seconds=0.1, progress=seen.append)

    assert seen == sorted(seen)
    assert 0 < seen[-1] <= 1


def test_the_host_is_described():
    """What this machine is can be read, and what cannot be read is None rather than a guess."""
    described = host()

    assert described["cpu"]
    assert described["num_usable_cpus"] >= 1
    assert described["memory_bytes"] is None or described["memory_bytes"] > 1 << 20


def test_the_idlest_processors_are_found():
    """As many processors as asked for, of those that this process may use."""
    usable = os.sched_getaffinity(0)

    assert set(idlest_cpus(1)) <= usable
    assert len(idlest_cpus(1)) == 1
    assert set(idlest_cpus(len(usable))) == usable
    assert os.sched_getaffinity(0) == usable
