"""A whole job on a small network: what it writes, what it states, and what it refuses before any work."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.workers.pruning.journals import KeptInMemory, Killed, Watch, run_of
from tests.workers.pruning.seeded import answers, seeded
from workers.pipeline import analyse_dataset, analyse_network, prune
from workers.prune_spec import PruneSpec, Target
from workers.pruning.errors import DeviceGone, InvalidDataset, InvalidGraph, NothingToPrune, TargetUnreachable
from workers.pruning.graph.save import to_bytes
from workers.pruning.measure.stopwatch import LocalStopwatch
from workers.pruning.training.recipe import FinetuneSettings
from workers.pruning.types import Phase

# Two convolutions and a stream of 16 channels; MACs by hand: 9*3*16*256 + 2 * (9*16*16*256) + 16*4 = 1,290,304.
RESIDUAL = """
<ir_version: 8, opset_import: ["" : 17], producer_name: "by hand">
residual (float[N, 3, 16, 16] x, float[16, 3, 3, 3] w1, float[16] b1, float[16, 16, 3, 3] w2, float[16] scale2,
          float[16] b2, float[16] m2, float[16] var2, float[16, 16, 3, 3] w3, float[16] b3, float[4, 16] w4,
          float[4] b4)
    => (float[N, 4] y)
{
  a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
  c = Relu (a)
  d = Conv <pads = [1, 1, 1, 1]> (c, w2)
  e = BatchNormalization (d, scale2, b2, m2, var2)
  f = Relu (e)
  g = Conv <pads = [1, 1, 1, 1]> (f, w3, b3)
  h = Add (c, g)
  i = Relu (h)
  j = GlobalAveragePool (i)
  k = Flatten (j)
  y = Gemm <transB = 1> (k, w4, b4)
}
"""
MACS = 1_290_304
HALF = PruneSpec(
    target_sets=((Target(metric="flops", ratio=0.5),),),
    options={"calibration_samples": 64},
    finetune=FinetuneSettings(steps=6, batch_size=32),
    round_to=1,
    measure=False,
)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "net.onnx"
    path.write_bytes(to_bytes(seeded(RESIDUAL, seed=3)))
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Noise with the labels that the network itself gives, so the original is right on every sample."""
    rng = np.random.default_rng(0)
    images = (rng.standard_normal((240, 3, 16, 16)) + rng.standard_normal((240, 3, 1, 1))).astype(np.float32)
    (outputs,) = answers(seeded(RESIDUAL, seed=3), images)
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, x=images[:200], y=outputs[:200].argmax(1), x_val=images[200:], y_val=outputs[200:].argmax(1))
    return path


@pytest.fixture(scope="module")
def done(network, dataset, tmp_path_factory):
    """One undisturbed job: its result and its folder."""
    out = tmp_path_factory.mktemp("out")
    return prune(replace(HALF, measure=True), network=network, dataset=dataset, out=out, run=run_of()), out


def test_half_the_flops_means_half_the_macs(done):
    """The result has at most half the MACs and at least 48 %, counted by hand for the original."""
    result, _ = done

    assert result["before"]["macs"] == MACS
    assert result["before"]["flops"] == 2 * MACS
    assert 0.46 * MACS <= result["after"]["macs"] <= 0.5 * MACS
    assert (result["target_met"], result["stopped_by"]) == (True, "target")


def test_the_original_is_judged_beside_the_result(done):
    """The original is right on all held-out samples; the result states accuracy, its interval and agreement."""
    result, _ = done

    assert result["before"]["accuracy"] == 1.0
    assert result["after"]["accuracy_interval"][0] <= result["after"]["accuracy"]
    assert result["after"]["agreement"] == result["after"]["accuracy"]
    assert result["after"]["latency_ms"] > 0


def test_every_stage_is_in_the_curve(done):
    """The curve names raw, compensated and fine-tuned accuracy, and the losses between."""
    result, _ = done

    assert [point["stage"] for point in result["curve"] if "accuracy" in point] == ["raw", "compensated", "finetuned"]
    assert [point["step"] for point in result["curve"] if "loss" in point] == [1, 2, 3, 4, 5, 6]


def test_what_was_chosen_is_stated(done):
    """Fine-tuning states its figures, the data theirs, and the time is given by phase."""
    result, _ = done

    assert result["finetune"]["batch_size"] == 32
    assert result["data"]["num_train"] == 200
    assert {"load", "score", "compensate", "finetune", "export", "verify"} <= set(result["timing"])


def test_layers_say_what_became_narrower(done):
    """Each layer with weights is listed with its width before and after; the classes stay."""
    result, _ = done
    layers = {layer["name"]: (layer["before"], layer["after"]) for layer in result["layers"]}

    assert layers["y"] == (4, 4)
    assert layers["a"][0] == layers["g"][0] == 16
    assert layers["a"][1] == layers["g"][1] <= 16
    assert sum(after for _, after in layers.values()) < sum(before for before, _ in layers.values())


def test_the_file_keeps_its_interface(done, network):
    """Names, dtypes, axes and opset are those of the upload, the full checker passes, and it runs at any batch."""
    _, out = done
    old, new = onnx.load(network), onnx.load(out / "pruned.onnx")
    onnx.checker.check_model(new, full_check=True)
    session = ort.InferenceSession(out / "pruned.onnx")

    assert list(old.graph.input) == list(new.graph.input)
    assert list(old.graph.output) == list(new.graph.output)
    assert list(old.opset_import) == list(new.opset_import)
    assert session.run(None, {"x": np.zeros((5, 3, 16, 16), np.float32)})[0].shape == (5, 4)


def test_the_file_says_where_it_comes_from(done, network):
    """Metadata name the digest of the upload, method, target and seed."""
    _, out = done
    metadata = {entry.key: entry.value for entry in onnx.load(out / "pruned.onnx").metadata_props}

    assert metadata["espalier.source_sha256"] == hashlib.sha256(network.read_bytes()).hexdigest()
    assert (metadata["espalier.method"], metadata["espalier.target"]) == ("auto", "flops=50%")
    assert metadata["espalier.seed"] == "0"


def test_artifacts_are_files_with_true_digests(done):
    """Every artifact is a file of the folder, and the digest is that of its bytes; the report is JSON and a page."""
    result, out = done
    onnx_entry, report_entry, page_entry = result["artifacts"]

    assert onnx_entry["sha256"] == hashlib.sha256((out / onnx_entry["file"]).read_bytes()).hexdigest()
    assert json.loads((out / report_entry["file"]).read_text())["after"] == result["after"]
    assert page_entry == {**report_entry, "file": "report.html"}
    assert (out / "report.html").read_text().startswith("<!doctype html>")


def test_the_result_names_what_was_pruned_by_what(done, network):
    """Digest of the upload, versions and machine are stated, and the latency ratio lies within its interval."""
    result, _ = done
    low, high = result["latency"]["ratio_interval"]

    assert result["source"]["sha256"] == hashlib.sha256(network.read_bytes()).hexdigest()
    assert {"espalier", "python", "onnxruntime", "torch"} <= set(result["versions"])
    assert result["host"]["num_cpus"] >= 1
    assert 0 < low <= result["latency"]["ratio"] <= high


def test_cut_equals_masked_and_torch_equals_runtime(done):
    """Both proofs are stated and small."""
    result, _ = done

    assert result["parity"]["masked_vs_cut_max_abs"] < 1e-4
    assert result["parity"]["torch_vs_runtime_max_abs"] < 1e-4


@pytest.mark.parametrize(
    ("phase", "fraction"), [(Phase.SCORE, 0.0), (Phase.COMPENSATE, 0.0), (Phase.FINETUNE, 0.5), (Phase.EXPORT, 0.0)]
)
def test_a_job_killed_anywhere_ends_with_the_same_bytes(network, dataset, tmp_path, phase, fraction):
    """Dying in a phase and running again gives the file of an undisturbed job."""
    prune(HALF, network=network, dataset=dataset, out=tmp_path / "undisturbed", run=run_of(tick=6))
    journal = KeptInMemory()
    with pytest.raises(Killed):
        dying = run_of(journal=journal, report=Watch(phase, fraction), tick=6)
        prune(HALF, network=network, dataset=dataset, out=tmp_path / "killed", run=dying)
    prune(HALF, network=network, dataset=dataset, out=tmp_path / "resumed", run=run_of(journal=journal))

    undisturbed = (tmp_path / "undisturbed" / "pruned.onnx").read_bytes()
    assert undisturbed == (tmp_path / "resumed" / "pruned.onnx").read_bytes()


@pytest.mark.parametrize("method", ["magnitude", "random"])
@pytest.mark.parametrize("compensate", [True, False])
def test_baselines_reach_the_target(network, dataset, tmp_path, method, compensate):
    """The baselines meet the same target by the same path, with least squares or with statistics alone."""
    spec = replace(HALF, method=method, options={"compensate": compensate})
    result = prune(spec, network=network, dataset=dataset, out=tmp_path, run=run_of())

    assert result["target_met"]
    assert result["curve"][1]["stage"] == ("compensated" if compensate else "recalibrated")


def test_several_limits_hold_at_once(network, dataset, tmp_path):
    """With MACs and parameters limited, in shares and figures, both hold."""
    targets = (Target(metric="macs", value=0.7 * MACS), Target(metric="params", ratio=0.4))
    spec = replace(HALF, target_sets=(targets,), finetune=FinetuneSettings(steps=0))
    result = prune(spec, network=network, dataset=dataset, out=tmp_path, run=run_of())

    assert result["after"]["macs"] <= 0.7 * MACS
    assert result["after"]["params"] <= 0.4 * result["before"]["params"]
    assert result["finetune"] == {"steps": 0}


def test_several_targets_give_several_files(network, dataset, tmp_path):
    """One job with two targets leaves two networks, each with its own proof."""
    sets = ((Target(metric="flops", ratio=0.7),), (Target(metric="flops", ratio=0.4),))
    spec = replace(HALF, target_sets=sets, finetune=FinetuneSettings(steps=0))
    result = prune(spec, network=network, dataset=dataset, out=tmp_path, run=run_of())
    files = [entry["file"] for entry in result["artifacts"] if entry["kind"] == "onnx"]

    assert files == ["0-pruned.onnx", "1-pruned.onnx"]
    assert [variant["target"] for variant in result["variants"]] == ["flops=70%", "flops=40%"]
    assert (tmp_path / files[1]).stat().st_size < (tmp_path / files[0]).stat().st_size
    assert "load" in result["timing"]
    assert all("compensate" in variant["timing"] and "load" not in variant["timing"] for variant in result["variants"])


def test_without_data_the_result_is_unverified(network, tmp_path):
    """Made-up inputs give agreement but no accuracy, and a warning says so."""
    result = prune(HALF, network=network, dataset=None, out=tmp_path, run=run_of())

    assert result["verified"] is False
    assert "accuracy" not in result["after"]
    assert any("No data was given" in warning for warning in result["warnings"])


def test_an_allowed_drop_has_precedence_over_the_target(network, dataset, tmp_path):
    """Where the target costs more accuracy than allowed, less is pruned, and the result says what stopped it."""
    spec = replace(
        HALF,
        target_sets=((Target(metric="flops", ratio=0.1),),),
        finetune=FinetuneSettings(steps=0),
        options={"compensate": False},
        method="random",
        max_accuracy_drop=0.1,
    )
    result = prune(spec, network=network, dataset=dataset, out=tmp_path, run=run_of())
    allowed = prune(replace(spec, max_accuracy_drop=1.0), network=network, dataset=dataset, out=tmp_path, run=run_of())

    assert (result["stopped_by"], result["target_met"]) == ("accuracy", False)
    assert result["after"]["macs"] > 0.1 * MACS
    assert result["accuracy_drop"]["held"] == (result["accuracy_drop"]["found"] <= 0.1)
    assert any("allowed were 0.1" in warning for warning in result["warnings"])
    assert (allowed["stopped_by"], allowed["target_met"]) == ("target", True)


def test_an_unreachable_target_is_refused_before_the_data(network, tmp_path):
    """The refusal states the smallest reachable figure, and no dataset is opened."""
    spec = replace(HALF, target_sets=((Target(metric="flops", ratio=0.001),),))

    with pytest.raises(TargetUnreachable, match=r"smallest reachable macs \d"):
        prune(spec, network=network, dataset=tmp_path / "missing.npz", out=tmp_path, run=run_of())


def test_nothing_to_prune_is_refused(network, dataset, tmp_path):
    """With every layer excluded there is nothing to do, and it says so."""
    with pytest.raises(NothingToPrune):
        prune(replace(HALF, exclude=("*",)), network=network, dataset=dataset, out=tmp_path, run=run_of())


def test_labels_the_network_does_not_have_are_refused(network, tmp_path):
    """A label above the network's classes is named."""
    path = tmp_path / "wrong.npz"
    np.savez(path, x=np.zeros((30, 3, 16, 16), np.float32), y=np.full(30, 7))

    with pytest.raises(InvalidDataset, match="7"):
        prune(HALF, network=network, dataset=path, out=tmp_path, run=run_of())


def test_a_network_for_one_sample_stays_one(tmp_path):
    """A network exported for batch 1 is scored and trained in batches, and its file still takes batch 1."""
    text = RESIDUAL.replace("[N, ", "[1, ").replace(
        "k = Flatten (j)", "s = Constant <value_ints = [1, 16]> ()  k = Reshape (j, s)"
    )
    graph = seeded(text, seed=3)
    (tmp_path / "one.onnx").write_bytes(to_bytes(graph))
    result = prune(HALF, network=tmp_path / "one.onnx", dataset=None, out=tmp_path, run=run_of())
    pruned = onnx.load(tmp_path / "pruned.onnx")

    assert result["finetune"]["batch_size"] == 32
    assert [dim.dim_value for dim in pruned.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 16, 16]
    assert [dim.dim_value for dim in pruned.graph.output[0].type.tensor_type.shape.dim] == [1, 4]


def test_a_network_that_mixes_its_samples_is_refused(tmp_path):
    """Where a larger batch would mix samples, the refusal asks for a dynamic batch axis."""
    text = RESIDUAL.replace("[N, ", "[1, ").replace(
        "k = Flatten (j)", "s = Constant <value_ints = [16, -1]> ()  t = Reshape (j, s)  k = Transpose (t)"
    )
    (tmp_path / "one.onnx").write_bytes(to_bytes(seeded(text, seed=3)))

    with pytest.raises(InvalidGraph, match="dynamic batch axis"):
        prune(HALF, network=tmp_path / "one.onnx", dataset=None, out=tmp_path, run=run_of())


def test_analysis_says_what_may_go(network):
    """The analysis counts as by hand, lists groups with shares, and is plain JSON."""
    analysis = analyse_network(network)

    assert analysis["macs"] == MACS
    assert analysis["producer"] == "by hand"
    assert analysis["head"] == "classification"
    assert sum(group["channels"] for group in analysis["prunable_groups"]) == 32
    assert 0 < analysis["reachable"]["macs_min_ratio"] < 0.5
    assert json.loads(json.dumps(analysis)) == analysis


def test_dataset_is_described(dataset):
    """The description has kind and counts; of four classes the network chooses three."""
    described = analyse_dataset(dataset)

    assert (described["kind"], described["num_samples"], described["num_classes"]) == ("labelled", 240, 3)


class Away:
    """A device that does not answer."""

    batch = 1

    def __init__(self, device):
        self.device, self.asked = device, 0

    def known(self):
        return {}

    def time(self, networks):
        self.asked += 1
        raise DeviceGone("dev_away never called", where=self.device)


def test_every_device_times_every_artifact_and_one_that_is_away_costs_a_warning(network, dataset, tmp_path):
    """Both networks are stated for each device, this host first; whoever stays away is waited for once in a job."""
    quick = {"network_seconds": 0.1, "layer_seconds": 0.1}
    away, board = Away("dev_away"), LocalStopwatch(device="dev_board", batch=2, **quick)
    run = replace(run_of(), stopwatches={one.device: one for one in (LocalStopwatch(**quick), away, board)})
    spec = replace(
        HALF,
        target_sets=((Target(metric="flops", ratio=0.5),), (Target(metric="flops", ratio=0.7),)),
        finetune=FinetuneSettings(steps=0),
        measure=True,
        devices=("dev_away", "dev_board"),
        called={"dev_board": {"name": "board", "processor": "a core"}},
    )
    result = prune(spec, network=network, dataset=dataset, out=tmp_path, run=run)

    for variant in result["variants"]:
        listed = {entry["device"]: entry for entry in variant["devices"]}
        assert list(listed) == ["dev_local", "dev_board", "dev_away"]
        assert (listed["dev_board"]["name"], listed["dev_board"]["processor"]) == ("board", "a core")
        assert [listed[name]["before"]["batch"] for name in ("dev_local", "dev_board")] == [1, 2]
        assert listed["dev_board"]["speedup"] == pytest.approx(1 / listed["dev_board"]["ratio"])
        assert "never called" in listed["dev_away"]["problem"]["detail"]
        assert any("dev_away is not stated" in warning for warning in variant["warnings"])
        assert variant["target_met"]
    assert away.asked == 1


def test_a_latency_that_is_aimed_at_is_stated_as_measured(network, dataset, tmp_path):
    """Limit and reached are of the last measurement, with what was shipped; a counted target stands beside it."""
    watch = LocalStopwatch(network_seconds=0.2, layer_seconds=0.5)
    targets = (Target(metric="latency_ms", ratio=0.9), Target(metric="params", ratio=0.8))
    spec = replace(HALF, target_sets=(targets,), finetune=FinetuneSettings(steps=0), method="magnitude", measure=True)
    spec = replace(spec, options={})
    result = prune(
        spec, network=network, dataset=dataset, out=tmp_path, run=replace(run_of(), stopwatches={"dev_local": watch})
    )
    latency, params = result["targets"]

    assert latency["target"] == "latency=90%@dev_local"
    assert latency["judged_by"] == "paired ratio"
    assert latency["limit"] == pytest.approx(0.9 * result["before"]["latency_ms"])
    assert latency["reached"] == pytest.approx(latency["ratio"] * result["before"]["latency_ms"])
    assert latency["met"] == (latency["reached"] <= latency["limit"])
    assert params["met"]
    assert result["target_met"] == latency["met"]
    assert result["facts"]["latency"]["dev_local"]["original_ms"] > 0
