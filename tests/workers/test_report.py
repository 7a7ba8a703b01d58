"""The page of a job: what it says, what it leaves out, and that nothing in an upload becomes markup."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from workers.report.differences import differing_layers
from workers.report.page import render

HOSTILE = "<script>alert(1)</script>"
MS = "\N{NO-BREAK SPACE}ms"
PERCENT = "\N{NO-BREAK SPACE}%"


def measurement(of: str, samples: list[float]) -> dict:
    """A latency measurement as the engine states it."""
    ordered = sorted(samples)
    return {
        "of": of,
        "samples_ms": samples,
        "p50_ms": ordered[len(ordered) // 2],
        "p90_ms": ordered[int(len(ordered) * 0.9)],
        "p99_ms": ordered[-1],
        "mean_ms": sum(samples) / len(samples),
        "load_ms": 4.5,
        "warmup": 10,
        "batch": 1,
        "threads": 1,
        "runtime": "onnxruntime",
        "runtime_version": "1.31.1",
        "provider": "CPUExecutionProvider",
        "host": {"cpu": "a processor", "on_cpu_p50_ms": ordered[0]},
    }


def side(macs: int, accuracy: float) -> dict:
    """What a result states of one network."""
    return {
        "macs": macs,
        "flops": 2 * macs,
        "params": macs // 10,
        "size_bytes": macs * 4 // 10,
        "peak_activation_bytes": 24_576,
        "num_samples": 450,
        "accuracy": accuracy,
        "accuracy_interval": [accuracy - 0.02, accuracy + 0.01],
        "agreement": min(1.0, accuracy + 0.01),
        "mean_kl": 1 - accuracy,
    }


def result(*, target: str = "flops=50%", macs: int = 1_509_472, accuracy: float = 0.9444) -> dict:
    """A result of the API with everything in it."""
    after = side(macs, accuracy)
    return {
        "method": "auto",
        "options": {"calibration_samples": 128},
        "seed": 7,
        "target": target,
        "targets": [{"target": target, "metric": "macs", "limit": 1_517_184.0, "reached": macs}],
        "target_met": True,
        "stopped_by": "target",
        "verified": True,
        "before": side(3_034_368, 0.9888),
        "after": after,
        "accuracy_drop": {"of": "accuracy", "found": 0.0444, "allowed": 0.05, "held": True},
        "layers": [
            {"name": "conv_1", "kind": "Conv", "before": 32, "after": 24},
            {"name": "fc", "kind": "Gemm", "before": 10, "after": 10},
        ],
        "curve": [
            {"stage": "raw", **side(macs, 0.7951)},
            {"stage": "compensated", **side(macs, 0.9222)},
            {"stage": "finetuned", **after},
            *({"stage": "training", "step": n, "loss": 1 / n, "learning_rate": 0.01} for n in range(1, 41)),
        ],
        "finetune": {"steps": 40, "batch_size": 128, "learning_rate": 0.01, "kept": True},
        "data": {"kind": "labelled", "num_train": 1347, "classes": ["cat"], "preprocessing": {"scale": 0.25}},
        "frozen": [{"node": "fc", "reason": "it gives an output of the network"}],
        "parity": {"torch_vs_runtime_max_abs": 3.5e-06, "masked_vs_cut_max_abs": 2.5e-07},
        "measurements": [
            measurement("before", [0.071, 0.072, 0.0712, 0.073, 0.9]),
            measurement("after", [0.041, 0.042, 0.0434, 0.044, 0.045]),
        ],
        "latency": {
            "ratio": 0.608,
            "ratio_interval": [0.606, 0.61],
            "is_real": True,
            "on_cpu_ratio": 0.61,
            "doubts": [],
        },
        "timing": {"score": 1.25, "cut": 0.25, "compensate": 2.5, "finetune": 75.0, "load": 0.5},
        "warnings": [],
        "sha256": "ab" * 32,
        "size_bytes": 342_208,
        "file": "pruned.onnx",
        "source": {"graph": "digits", "producer": "pytorch 2.13", "sha256": "cd" * 32, "size_bytes": 1_260_302},
        "versions": {"espalier": "0.1.0", "onnxruntime": "1.31.1"},
        "host": {"cpu": "a processor", "num_cpus": 2},
        "artifacts": [],
    }


def several() -> dict:
    """A result with three targets."""
    shares = ((0.7, 2_039_000, 0.98), (0.5, 1_509_472, 0.9444), (0.3, 907_000, 0.9))
    variants = [result(target=f"flops={share:.0%}", macs=macs, accuracy=at) for share, macs, at in shares]
    return {**variants[0], "variants": variants}


class Page(HTMLParser):
    """A page as a browser sees it: elements, attributes, text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.parts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.parts.append(data)

    @property
    def text(self) -> str:
        """Everything there is to read, with single spaces."""
        return re.sub(r"[ \n]+", " ", " ".join(self.parts))


def scalars(value):
    """Yield every word and figure of a JSON value."""
    if isinstance(value, dict):
        for entry in value.values():
            yield from scalars(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from scalars(entry)
    else:
        yield value


def poisoned(value):
    """The same JSON value with every string hostile, but for the words the engine itself chooses."""
    if isinstance(value, dict):
        kept = ("metric", "of", "stopped_by", "stage")
        return {key: entry if key in kept else poisoned(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [poisoned(entry) for entry in value]
    return f'{HOSTILE}"onload="x' if isinstance(value, str) else value


def test_the_headline_says_what_was_asked_and_reached():
    """One paragraph has target, what remains, accuracy with interval and the latency ratio."""
    text = Page(render(result())).text

    assert f"Asked for flops=50%: 1.51\N{NO-BREAK SPACE}M multiply-accumulates (MACs) remain, 49.7{PERCENT}" in text
    assert f"Held-out accuracy is 94.4{PERCENT} (95 % interval 92.4 to 95.4{PERCENT})" in text
    assert "−4.4 points on 450 samples" in text
    assert f"One run takes 60.8{PERCENT} of the original's time (95 % interval 60.6 to 61.0{PERCENT})" in text
    assert "1.64 times as fast." in text  # 1 / 0.608


def test_doubtful_latency_is_said_in_the_headline():
    """An unstable timing carries its caveat, and one that shows no difference claims none."""
    doubtful, level = result(), result()
    doubtful["latency"]["doubts"] = ["before: it drifted"]
    level["latency"] |= {"is_real": False, "ratio": 0.99, "ratio_interval": [0.9, 1.1]}

    assert "the machine was not quiet: measure again" in Page(render(doubtful)).text
    assert f"No difference in latency could be shown (ratio 90.0 to 110.0{PERCENT}" in Page(render(level)).text


def test_a_missed_target_is_said():
    """Where the limit does not hold, or accuracy stopped the pruning, the headline says so."""
    missed = result(macs=2_000_000)
    missed |= {"target_met": False, "stopped_by": "accuracy"}
    text = Page(render(missed)).text

    assert "the limit of 1.52\N{NO-BREAK SPACE}M is missed" in text
    assert "Less was pruned than asked for" in text


def test_the_table_has_before_and_after():
    """MACs, parameters, bytes, activations, accuracy, agreement and latencies stand beside the original's."""
    text = Page(render(result())).text

    assert "Parameters 303\N{NO-BREAK SPACE}k 151\N{NO-BREAK SPACE}k" in text
    assert f"Latency, median (p50) 5 runs each, batch 1, 1 thread(s) 0.0720{MS} 0.0434{MS} 60.3{PERCENT}" in text
    for name in ("Size", "Peak activations", "Held-out accuracy", "Agreement with the original", "Latency, p90"):
        assert name in text


def test_stages_say_cost_and_gain():
    """Each stage has its accuracy, the points it gained, and its seconds: scoring and cutting belong to the cut."""
    text = Page(render(result())).text

    assert f"cut channels removed, nothing repaired 79.5{PERCENT} 77.5 to 80.5{PERCENT} −19.4 points" in text
    assert "+12.7 points" in text
    assert "1.50\N{NO-BREAK SPACE}s" in text
    assert "1\N{NO-BREAK SPACE}min 15\N{NO-BREAK SPACE}s" in text


def test_every_figure_of_the_result_is_there():
    """The whole result can be read off the page, every sample and digest included."""
    given = result()
    text = Page(render(given)).text
    missing = [value for value in scalars(given) if json.dumps(value) not in text]

    assert [] == missing


def test_hostile_names_stay_text():
    """Whatever the names of nodes, classes and networks are, no element, attribute or handler comes of them."""
    given = several() | {"facts": {"note": "fine"}}
    honest = Page(render(given))
    hostile = Page(render({**poisoned(given), "options": {HOSTILE: 1}, "facts": {HOSTILE: HOSTILE}}))

    assert HOSTILE in hostile.text
    assert "script" not in hostile.tags
    assert set(hostile.tags) == set(honest.tags)
    assert {name for _, name, _ in hostile.attributes} == {name for _, name, _ in honest.attributes}
    assert not any(name.startswith("on") for _, name, _ in hostile.attributes)


def test_the_page_needs_nothing_else():
    """No element loads anything, no style fetches anything, and the page forbids both to the browser."""
    text = render(several())
    page = Page(text)
    loading = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href", "style"}

    assert [] == [entry for entry in page.attributes if entry[1] in loading]
    assert not {"script", "link", "iframe", "object", "embed", "img", "base"} & set(page.tags)
    assert not re.search(r"url\(|@import|@font-face|https?:", text)
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def test_the_same_result_gives_the_same_bytes():
    """Rendering twice, and after a way through JSON, changes nothing."""
    given = several()

    assert render(given) == render(json.loads(json.dumps(given)))


def test_pictures_say_in_words_what_they_show():
    """Every picture has a label for those who do not see it, and axes have units."""
    page = Page(render(several()))
    pictures = [(name, value) for tag, name, value in page.attributes if tag == "svg" and name == "role"]
    labels = [value for tag, name, value in page.attributes if tag == "svg" and name == "aria-label"]

    assert len(pictures) == len(labels) == 1 + 3 * 4
    assert labels[0].startswith("Held-out accuracy against MACs. flops=30%: 907\N{NO-BREAK SPACE}k MACs")
    for name in ("MACs per sample, millions", "milliseconds per run", "held-out accuracy, %", "training step"):
        assert name in page.text


def test_several_targets_stand_side_by_side():
    """With several targets there is one table of all, and one part for each."""
    text = Page(render(several())).text

    assert "All targets" in text
    assert [text.count(f"Asked for flops={share}%") for share in (70, 50, 30)] == [1, 1, 1]
    assert "All targets" not in Page(render(result())).text


def test_a_job_without_data_claims_no_accuracy():
    """Without data, training and timing their parts are gone, and the page begins by saying that it is unverified."""
    bare = result() | {"verified": False, "measurements": [], "latency": None, "finetune": {"steps": 0}, "frozen": []}
    for figures in (bare["before"], bare["after"], *bare["curve"]):
        for key in ("accuracy", "accuracy_interval"):
            figures.pop(key, None)
    bare["curve"] = [point for point in bare["curve"] if "loss" not in point and point["stage"] != "finetuned"]
    bare["accuracy_drop"] = None
    text = Page(render(bare)).text

    assert "Unverified" in text
    assert "Accuracy is not known. On 450 made-up inputs" in text
    assert "Latency was not measured." in text
    for absent in ("Held-out accuracy", "milliseconds per run", "Training loss", "Left alone", "fine-tuned"):
        assert absent not in text


def test_warnings_come_first_and_once():
    """A warning of all targets is said once; one of a single target names it; both before any figure."""
    given = several()
    given["variants"][0]["warnings"] = ["shared", "alone"]
    for variant in given["variants"][1:]:
        variant["warnings"] = ["shared"]
    read = Page(render(given)).text.split("The whole result as JSON")[0]

    assert read.count("shared") == 1
    assert "flops=70%: alone" in read
    assert read.index("alone") < read.index("All targets")


def test_what_only_one_method_states_is_shown():
    """Facts of a method become lines, its records a table and, where they have an order, curves."""
    given = result()
    given["facts"] = {
        "search_seconds": 3.5,
        "losses": [None, *range(20, 0, -1)],
        "memory": [{"epoch": n, "peak_bytes": 1000 - n} for n in range(5)],
    }
    given["curve"].append({"stage": "generation", "round": 1, "best": 0.5})
    page = Page(render(given))

    assert "search seconds 3.5" in page.text
    assert "peak bytes over epoch: from 1.00\N{NO-BREAK SPACE}k to 996." in [
        value for _, name, value in page.attributes if name == "aria-label"
    ]
    assert "round best 1 0.5" in page.text


def test_many_layers_become_columns():
    """Above forty layers each is a column with its name to point at, and the list of all stays."""
    given = result()
    given["layers"] = [{"name": f"conv_{n}", "kind": "Conv", "before": 64, "after": 64 - n % 32} for n in range(200)]
    page = Page(render(given))

    assert "layers in the order of computation" in page.text
    assert "conv_137 (Conv): 64 to 55" in page.text
    assert "All 200 layers" in page.text


def test_a_network_that_is_no_classifier():
    """Other heads state a relative error in place of accuracy."""
    given = result() | {"accuracy_drop": None, "curve": [{"stage": "raw", "num_samples": 450, "relative_mse": 0.5}]}
    for key, error in (("before", 0.0), ("after", 0.03)):
        given[key] = {name: given[key][name] for name in ("macs", "params", "size_bytes", "num_samples")}
        given[key]["relative_mse"] = error
    text = Page(render(given)).text

    assert f"differ from the original's by a squared error of 3.0{PERCENT} of their variance" in text
    assert "relative error 0.500" in text


def test_the_page_costs_an_attempt_little():
    """Importing and rendering take seconds of processor time at most in a fresh interpreter, without torch."""
    script = (
        "import time, json, sys; start = time.process_time(); from workers.report.page import render;"
        "render(json.load(sys.stdin)); assert 'torch' not in sys.modules; print(time.process_time() - start)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(several()), capture_output=True, text=True, check=True
    )

    assert float(done.stdout) < 4


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium to look with")
def test_a_browser_shows_it_without_complaint(tmp_path):
    """A headless browser draws the page, on a telephone's width, and logs no refusal of the page's own policy."""
    (tmp_path / "report.html").write_text(render(several()), "utf-8")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--window-size=500,900",
    ]
    picture = tmp_path / "report.png"
    done = subprocess.run(
        [
            "chromium",
            *flags,
            f"--user-data-dir={tmp_path}/profile",
            f"--screenshot={picture}",
            f"file://{tmp_path}/report.html",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "CONSOLE" not in done.stderr


def test_an_accuracy_to_hold_says_what_was_asked_and_shows_every_try():
    """Without a target the page states the drop that was allowed, and has a row for each network that was looked at."""
    tries = [
        {"kind": kind, "macs": macs, "params": macs // 10, "of": "accuracy", "fall": fell, "held": fell <= 0.05,
         "samples": 450, "shipped": kind == "whole" and macs == 1_509_472}
        for kind, macs, fell in (
            ("draft", 2_000_000, 0.01), ("draft", 1_000_000, 0.2),
            ("whole", 1_509_472, 0.0444), ("whole", 1_200_000, 0.07),
        )
    ]  # fmt: skip
    text = Page(render(result() | {"targets": [], "target": "max_accuracy_drop=0.05", "tries": tries})).text

    assert "Asked for the smallest network whose held-out accuracy falls by at most 5" in text
    assert "What was tried for the accuracy" in text
    assert text.count("draft") >= 2


def on_device(name: str, *, before: float, after: float, called: str = "", doubts: tuple[str, ...] = ()) -> dict:
    """What a result states of one device; medians in milliseconds."""

    def one(p50: float) -> dict:
        how = {"threads": 4, "batch": 1, "provider": "CPUExecutionProvider", "runtime": "onnxruntime"}
        return {**how, "p50_ms": p50, "p90_ms": p50, "p50_interval_ms": [p50, p50], "runtime_version": "1.31.1"}

    ratio = after / before
    return {
        "device": name,
        "name": called or name,
        "processor": "a board",
        "before": one(before),
        "after": one(after),
        "ratio": ratio,
        "speedup": 1 / ratio,
        "doubts": list(doubts),
    }


def aimed(device: str, *, saved: float, step: int) -> dict:
    """How a latency target on one device was pursued, in two plans; a step of a group saves so many milliseconds."""
    plan = {
        "predicted_ms": 9.0,
        "measured_ms": 10.0,
        "factor": 1.1,
        "measured_over_predicted": 10 / 9,
        "of_target": 1.25,
    }
    layer = {"layer": "conv_1", "kind": "Conv", "row": "Conv 3x3", "ms": 2.0, "share": 0.4, "kept": {"0": 24}}
    return {
        device: {
            "device": device,
            "target_ms": 8.0,
            "original_ms": 16.0,
            "original_predicted_ms": 15.2,
            "reached_ms": 7.8,
            "met": True,
            "corrections": 1,
            "plans": [plan, {**plan, "measured_ms": 7.8, "of_target": 0.975}],
            "steps": {"Conv": step},
            "prediction_error": 0.05,
            "factors": {"Conv": 1.2},
            "rows_asked": 12,
            "rows_reused": 3,
            "layers": [{**layer, "ms_per_channel": {"0": saved / step}}],
            "groups": [
                {
                    "group": "g0",
                    "layers": ["conv_1", "conv_<2>"],
                    "width": 32,
                    "kept": 24,
                    "step": step,
                    "original_ms": 4.0,
                    "kept_ms": 3.0,
                    "saved_by_step_ms": saved,
                }
            ],
        }
    }


JETSON, SERVER = "dev_00000000000000000000000001", "dev_local"


def test_each_device_has_its_latencies_and_gains() -> None:
    """Edge beside server: medians, what remains, how many times as fast; a device that is away says why."""
    found = result()
    away = {"device": "dev_away", "name": "Pi", "problem": {"detail": "It was not heard of since noon."}}
    jetson = on_device(JETSON, before=40.0, after=16.0, called="Jetson <TX2>", doubts=("the clock fell",))
    found["devices"] = [on_device(SERVER, before=8.0, after=4.0), jetson, away]
    page = render(found)

    assert "Latency on each device" in page
    assert f"40.0{MS}" in page
    assert "Jetson &lt;TX2&gt;" in page
    assert f"40.0{PERCENT}" in page  # 16 of 40 ms
    assert "2.50 times" in page
    assert "2.00 times" in page
    assert "not stable: the clock fell" in page
    assert "not stated: It was not heard of since noon." in page
    assert "server (dev_local) 2.00 times, Jetson &lt;TX2&gt; 2.50 times" in page


def test_the_table_of_targets_has_a_column_for_each_device() -> None:
    """Times and shares of each target on each device, and quality against latency where several were timed."""
    variants = []
    for number, target in enumerate(("latency=50%@dev_local", f"latency=50%@{JETSON}")):
        found = result(target=target, macs=1_000_000 + number)
        found["devices"] = [
            on_device(SERVER, before=8.0, after=4.0 + number),
            on_device(JETSON, before=40.0, after=22.0 - 2 * number, called="Jetson"),
        ]
        variants.append(found)
    page = render({**variants[0], "variants": variants})
    heads = page[page.index("<h2>All targets") : page.index("</thead>", page.index("<h2>All targets"))]

    assert "<th>server (dev_local)</th><th>Jetson</th>" in heads
    assert f"20.0{MS}" in page
    assert "Held-out quality against latency on Jetson" in page
    assert "Gains at the edge" in page


def two_plans(*widths: int) -> dict:
    """One layer at these widths: for the server, and for a board."""
    variants = []
    for target, width, facts in (
        ("latency=8ms@dev_local", widths[0], aimed(SERVER, saved=0.016, step=16)),
        (f"latency=8ms@{JETSON}", widths[1], aimed(JETSON, saved=1.0, step=4)),
    ):
        found = result(target=target)
        found["facts"] = {"latency": facts}
        found["devices"] = [
            on_device(SERVER, before=8.0, after=4.0),
            on_device(JETSON, before=40.0, after=22.0, called="Jetson"),
        ]
        found["layers"] = [
            {"name": "conv_1", "kind": "Conv", "before": 32, "after": width},
            {"name": "fc", "kind": "Gemm", "before": 10, "after": 10},
        ]
        variants.append(found)
    return {**variants[0], "variants": variants}


def test_plans_for_two_devices_differ_for_a_reason() -> None:
    """Layers whose widths differ are listed with what their channels take on each device, and what a step saves."""
    page = render(two_plans(24, 8))
    reasons = page[page.index("Why plans for different devices differ") :]
    reasons = reasons[: reasons.index("</table>")]

    assert '<th scope="row">conv_1</th><td>32</td><td><strong>24</strong>' in reasons
    assert f"4.00{MS} → 3.00{MS}, 25.0{PERCENT} of the original" in reasons
    assert f"a step of 16 saves 0.1{PERCENT}" in reasons  # 0.016 of 16 ms
    assert f"a step of 4 saves 6.2{PERCENT}" in reasons
    assert "Layers of different widths: 1; of the same: 1." in reasons
    assert "fc" not in reasons
    assert page.count("was aimed at") == 2
    assert f"97.5{PERCENT}" in page  # 7.8 of 8 ms
    assert "after 1 correction." in page
    assert "12 new, 3 known before" in page
    assert "conv_1 and 1 more</th><td>32 → 24</td><td>4</td>" in page


def test_plans_that_do_not_differ_say_so() -> None:
    """Two devices may well want the same."""
    assert "They do not: every layer has the same width in each." in render(two_plans(24, 24))


def test_targets_are_called_by_the_names_of_their_devices() -> None:
    """Ids say nothing to a reader; they stay in the document."""
    page = render(two_plans(24, 8))

    assert "latency=8ms on Jetson" in page
    assert JETSON not in page[: page.index("The whole result as JSON")]


def test_two_results_are_compared_for_the_same_reasons() -> None:
    """What `espalier compare` is told of two jobs."""
    found = two_plans(24, 8)["variants"]
    (only,) = differing_layers([("one", found[0]), ("other", found[1])])

    assert (only.layer, only.widths) == ("conv_1", (24, 8))
    assert only.why == (
        "one: 25 % of the time on dev_local, a step of 16 saves 0.1 %; "
        "other: 25 % of the time on Jetson, a step of 4 saves 6.2 %; "
        "told apart: 16 channels save 0.1 % on dev_local and 25 % on Jetson"
    )


def reasoned(**saved: tuple[float, float]) -> list[tuple[str, dict]]:
    """Two plans of layers that take 1.6 of 16 ms; a step of 16 saves these milliseconds on either device."""
    plans = []
    for number, device in enumerate((SERVER, JETSON)):
        facts = aimed(device, saved=0.0, step=16)
        (group,) = facts[device]["groups"]
        facts[device]["prediction_error"] = (0.06, 0.07)[number]
        facts[device]["groups"] = [
            {**group, "layers": [name], "original_ms": 1.6, "saved_by_step_ms": both[number]}
            for name, both in saved.items()
        ]
        layers = [{"name": name, "before": 32, "after": 8 + 8 * number} for name in saved]
        plans.append((device, {"layers": layers, "facts": {"latency": facts}}))
    return plans


def test_a_reason_within_the_error_of_the_predictions_is_said_to_be_none() -> None:
    """10.3 and 11.1 % differ by 0.8 points; errors of 6 and 7 % are 0.6 and 0.8 points of them."""
    (only,) = differing_layers(reasoned(conv_1=(16 * 0.103, 16 * 0.111)))

    assert only.verdict == "not told apart: within the errors of the predictions (6 % and 7 %)"
    assert only.why.endswith(only.verdict)
    assert only.beyond == pytest.approx(0.008 - 0.06 * 0.103 - 0.07 * 0.111)


def test_the_best_founded_reason_comes_first() -> None:
    """Of equal widths that of the largest difference beyond both errors; what is not founded comes last."""
    plans = reasoned(conv_1=(1.0, 1.0), conv_2=(1.0, 1.3), conv_3=(0.5, 1.0))
    found = differing_layers(plans)

    assert ["conv_3", "conv_2", "conv_1"] == [one.layer for one in found]
    assert [one.verdict.startswith("told apart") for one in found] == [True, True, False]
    # 6.25 of 100 are 16 channels of 1.0 in 16 ms.
    assert found[0].verdict == f"told apart: 16 channels save 3.1 % on {SERVER} and 6.2 % on {JETSON}"


def test_without_errors_no_reason_is_founded() -> None:
    """A model that does not know how wrong it is tells no device from another; plans of one device are not judged."""
    plans = reasoned(conv_1=(0.1, 1.0))
    for device, plan in plans:
        plan["facts"]["latency"][device]["prediction_error"] = None
    (unknown,) = differing_layers(plans)
    (same,) = differing_layers([plans[0], ("again", {**plans[0][1], "layers": plans[1][1]["layers"]})])

    assert unknown.verdict == "not told apart: the errors of the predictions are not known"
    assert same.verdict == ""


def test_the_report_says_where_the_reason_is_not_told() -> None:
    """The headline names the best founded difference, or says that there is none."""
    doubtful = two_plans(24, 8)
    for variant in doubtful["variants"]:
        for facts in variant["facts"]["latency"].values():
            facts["prediction_error"] = 1.0

    assert "Best founded: conv_1, 16 channels save 0.1 % on dev_local and 25 % on Jetson." in render(two_plans(24, 8))
    assert "why the plans want other widths is not told by them" in render(doubtful)
    assert "not told apart: within the errors of the predictions (100 %)" in render(doubtful)


@pytest.mark.parametrize(("reached", "word"), [(8.8, "missed"), (7.9, "met")])
def test_the_last_measurement_has_the_only_word_on_a_latency(reached, word) -> None:
    """Where planning held the target and the finished network does not, or does, one verdict stands in the report."""
    found = result()
    found["facts"] = {**(found.get("facts") or {}), "latency": aimed(SERVER, saved=0.1, step=8)}
    found["targets"] = [
        {
            "target": "latency=50%@dev_local",
            "metric": "latency_ms",
            "device": SERVER,
            "limit": 8.0,
            "reached": reached,
            "met": reached <= 8.0,
        }
    ]
    text = " ".join(render(found).split())
    other = {"missed": "met", "met": "missed"}[word]

    assert f"the target is {word}." in text
    assert f"the target is {other}" not in text
    assert f"is {other}." not in text


def test_the_report_says_what_a_share_of_the_latency_was_judged_by() -> None:
    """Pairs of runs have the word where a share of the original was asked for."""
    found = result()
    found["facts"] = {**(found.get("facts") or {}), "latency": aimed(SERVER, saved=0.1, step=8)}
    target = {"target": "latency=50%@dev_local", "metric": "latency_ms", "device": SERVER, "limit": 8.0, "met": True}
    found["targets"] = [{**target, "reached": 7.76, "judged_by": "paired ratio", "ratio": 0.485}]
    text = " ".join(render(found).split()).replace("&#39;", "'")

    assert "took 48.5 % of the original's time, in runs side by side: 7.76 ms of 8.00 ms" in text
    assert "at the original's median; the target is met." in text
    assert "remain, 48.5 % of the original" in text


def test_a_latency_that_was_not_measured_at_the_end_is_said_to_be_so() -> None:
    """A device that went away leaves no figure and no verdict by accident."""
    found = result()
    found["targets"] = [
        {"target": "latency=8ms@dev_x", "metric": "latency_ms", "device": "dev_x", "limit": 8.0, "reached": None}
    ]

    assert "Asked for latency=8ms on dev_x: it was not measured at the end." in render(found)
