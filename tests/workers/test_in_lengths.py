"""Devices are told how long the samples of a job are, from the first question on."""

from pathlib import Path

from benchmarks.setting import bare_run
from tests.networks import onnx_bytes
from workers.pipeline import prepare
from workers.prune_spec import PruneSpec, Target
from workers.pruning.measure.stopwatch import LocalStopwatch
from workers.pruning.types import Run
from workers.timed import in_lengths

OPEN = """
open (float[N,3,H,W] x) => (float[N,4] y)
<float[8,3,3,3] conv_w, float[4,8] fc_w, float[4] fc_b>
{
  [conv] c = Conv <pads = [1,1,1,1]> (x, conv_w)
  [pool] p = GlobalAveragePool (c)
  [flat] f = Flatten (p)
  [fc] y = Gemm <transB = 1> (f, fc_w, fc_b)
}
"""


def lengths_of(text: str, folder: Path) -> dict:
    """The shapes that the stopwatches of a job without data are told."""
    (folder / "net.onnx").write_bytes(onnx_bytes(text))
    plain = bare_run()
    fields = ("seed", "num_threads", "device", "report", "journal", "clock")
    run = Run(**{name: getattr(plain, name) for name in fields}, stopwatches={"dev_local": LocalStopwatch(batch=2)})
    spec = PruneSpec(target_sets=((Target(metric="flops", ratio=0.5),),))
    task = in_lengths(prepare(spec, folder / "net.onnx", None, run))
    return dict(task.run.stopwatches["dev_local"].shapes)


def test_free_axes_are_told_as_long_as_the_samples(tmp_path: Path) -> None:
    """Batch, channels, and the nominal height and width of samples that were made up."""
    found = lengths_of(OPEN, tmp_path)

    assert found["x"][:2] == (2, 3)
    assert found["x"][2] == found["x"][3] > 1


def test_fixed_axes_need_not_be_told(tmp_path: Path) -> None:
    """The device reads them in the network."""
    assert lengths_of(OPEN.replace("N,3,H,W", "N,3,8,8"), tmp_path) == {}
