"""Whole jobs on networks of every kind: scored, cut, compensated, fine-tuned a little, verified."""

import io
from pathlib import Path

import numpy as np
import pytest

from benchmarks.setting import bare_run
from tests.matrix.architectures import ARCHITECTURES, exported
from workers.pipeline import prune
from workers.prune_spec import PruneSpec, Target
from workers.pruning.training.recipe import FinetuneSettings

QUICK = {"lstm_tagger", "gpt"}
KINDS = (
    *("lstm_tagger", "gpt", "bert", "llama", "vit", "swin", "mixer", "two_tower", "two_in_two_out", "yolo8", "tcn"),
    *("shufflenet_v1", "mobilevit"),
)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in KINDS]
)
def test_a_job_reaches_its_target(tmp_path: Path, name: str) -> None:
    """To 70 % of the MACs with unlabelled inputs of every kind; torch and ONNX Runtime agree on the result."""
    network, data, out = tmp_path / "network.onnx", tmp_path / "data.npz", tmp_path / "out"
    network.write_bytes(exported(name))
    data.write_bytes(_samples(name))
    out.mkdir()
    spec = PruneSpec(
        target_sets=((Target(metric="flops", ratio=0.7),),),
        options={"calibration_samples": 16},
        finetune=FinetuneSettings(steps=4),
        round_to=1,
        measure=False,
    )
    result = prune(spec, network=network, dataset=data, out=out, run=bare_run())

    assert result["after"]["macs"] <= 0.7 * result["before"]["macs"]
    assert result["parity"]["torch_vs_runtime_max_abs"] < 1e-4
    assert (out / "pruned.onnx").exists()


def _samples(name: str) -> bytes:
    random = np.random.default_rng(0)
    below = ARCHITECTURES[name].below
    arrays = {
        f"input{index}": random.standard_normal((64, *shape)).astype(np.float32)
        if below is None
        else random.integers(0, below, (64, *shape))
        for index, shape in enumerate(ARCHITECTURES[name].inputs)
    }
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()
