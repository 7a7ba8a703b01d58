"""The benchmark that decides: its rows, how it resumes, its figures and its page, on three convolutions."""

import importlib.util
import json

import pytest

from benchmarks.deciding import verdicts
from benchmarks.deciding.__main__ import main
from benchmarks.deciding.ledger import Ledger, Line, Row
from benchmarks.deciding.report import BEGIN, END, MarkersMissing, markdown, write_report
from benchmarks.deciding.spending import Spending
from benchmarks.deciding.statistics import stated
from workers.pruning.types import Phase

TINY = ["--networks", "tiny", "--latency-seconds", "0.02"]


def line(table: str, key: dict, **figures) -> Line:
    setting = {"host": "a machine", "versions": {"torch": "2"}, "threads": 1, "device": "cpu"}
    return Line(table=table, key=key, figures=figures, setting={**setting, "num_test": None, "num_train": None})


def timed(method: str, seconds: float, accuracy: float, *, steps: int, recipe: str = "ours") -> Line:
    key = {"network": "n", "ratio": 0.5, "seed": 0, "method": method, "recipe": recipe, "steps": steps}
    spent = {"cpu": {"search": 0.0, "compensation": 0.0, "training": seconds}}
    return line("time", key, accuracy={"trained": {"test": accuracy}}, final="trained", seconds=spent)


def test_two_methods_give_rows_that_meet_the_target_and_a_second_run_adds_none(tmp_path, capsys) -> None:
    """Rows carry every stage, costs within the target and seconds; a second run finds them and computes nothing."""
    out = tmp_path / "results.jsonl"
    command = ["untrained", "--out", str(out), "--cache", str(tmp_path), *TINY]
    command += ["--methods", "auto", "magnitude", "--ratios", "0.6", "--seeds", "0"]

    assert main(command) == 0
    found = {row.key["method"]: row.figures for row in Ledger(out).lines()}
    written = out.read_text()
    assert main(command) == 0

    assert found.keys() == {"auto", "magnitude"}
    for figures in found.values():
        assert figures["accuracy"].keys() == {"raw", "recalibrated", "compensated"}
        assert figures["target_met"]
        assert 0 < figures["macs"] <= 0.6
        assert figures["seconds"]["cpu"]["search"] > 0
        assert figures["latency_ratio"] > 0
    assert written == out.read_text()
    page = markdown(Ledger(out).lines())
    assert "tiny, 60 % of the MACs" in page
    assert capsys.readouterr().out.count("untrained tiny") == 2


def test_the_full_budget_table_runs_on_any_device_and_any_number_of_epochs(tmp_path) -> None:
    """What a GPU would run for a hundred epochs runs here for a part of one, from cut to training."""
    out = tmp_path / "results.jsonl"
    command = ["full", "--out", str(out), "--cache", str(tmp_path), *TINY, "--methods", "auto", "--seeds", "0"]

    assert main([*command, "--epochs", "1", "--ratios", "0.6", "--device", "cpu"]) == 0

    (row,) = Ledger(out).lines()
    assert row.key["epochs"] == 1
    assert row.figures["accuracy"].keys() == {"trained", "original"}
    assert row.figures["seconds"]["cpu"]["training"] > 0


@pytest.mark.parametrize("peer", ["torch_pruning_l2", "onnxsim_l2"])
def test_a_peer_meets_the_same_target_by_our_counter(tmp_path, peer) -> None:
    """Tools from outside are led to the target in our MACs, so that rows compare."""
    if importlib.util.find_spec(peer.rsplit("_", 1)[0]) is None:
        pytest.skip("installed by the extra `benchmarks` only")
    out = tmp_path / "results.jsonl"
    command = ["untrained", "--out", str(out), "--cache", str(tmp_path), *TINY, "--seeds", "1"]

    assert main([*command, "--methods", peer, "--ratios", "0.6"]) == 0

    (row,) = Ledger(out).lines()
    assert row.figures["target_met"]
    assert 0.4 < row.figures["macs"] <= 0.6


def test_a_row_that_fails_is_left_out_and_said(tmp_path, capsys) -> None:
    """A target below the floor costs its own row alone, and the exit status says that something failed."""
    out = tmp_path / "results.jsonl"
    command = [
        "untrained",
        "--out",
        str(out),
        "--cache",
        str(tmp_path),
        *TINY,
        "--methods",
        "magnitude",
        "--seeds",
        "1",
    ]

    assert main([*command, "--ratios", "0.0001", "0.7"]) == 1

    assert [row.key["ratio"] for row in Ledger(out).lines()] == [0.7]
    assert "TargetUnreachable" in capsys.readouterr().out


def test_of_rows_measured_again_the_last_counts(tmp_path) -> None:
    """The file only grows; a row with the same key replaces the one before it."""
    ledger = Ledger(tmp_path / "results.jsonl")
    row = Row(table="untrained", key={"network": "tiny"}, compute=dict)
    for value in (1, 2):
        ledger.add(row, {"macs": value}, {})

    assert [entry.figures["macs"] for entry in ledger.lines()] == [2]
    assert len(ledger.path.read_text().splitlines()) == 2


def test_the_page_keeps_everything_outside_the_markers(tmp_path) -> None:
    """Only what lies between the markers is replaced; a page without them is refused."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")

    write_report([timed("auto", 10, 80.0, steps=0)], page)
    text = page.read_text()

    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "80.00" in text
    page.write_text("nothing")
    with pytest.raises(MarkersMissing):
        write_report([], page)


def test_the_time_to_an_accuracy_is_interpolated_between_budgets() -> None:
    """80 % after 10 s and 84 % after 30 s: 82 % after 20 s, which is half of the peer's 40 s; 90 % is never reached."""
    rows = [
        timed("auto", 10, 80.0, steps=0),
        timed("auto", 30, 84.0, steps=40),
        timed("torch_pruning_l2", 40, 82.0, steps=400, recipe="cross_entropy"),
    ]

    assert verdicts.when(rows[:2], 82.0) == 20
    assert verdicts.when(rows[:2], 79.0) == 10
    assert verdicts.when(rows[:2], 90.0) is None
    assert "0.50 of it (wanted: 0.4; missed)" in verdicts.time(rows)


def test_the_search_of_the_authors_is_extrapolated_from_two_lengths_and_said_so() -> None:
    """8 evaluations in 20 s and 32 in 68 s are 2 s each: 400 take 68 + 368 x 2 = 804 s."""
    rows = [
        line("search", {"method": method, **more}, seconds={"cpu": {"search": seconds}})
        for method, more, seconds in [
            ("auto", {}, 40.0),
            ("lcp_authors", {"evaluations": 8}, 20.0),
            ("lcp_authors", {"evaluations": 32}, 68.0),
        ]
    ]

    said = verdicts.search(rows)

    assert "804 s (extrapolated from 8 and 32 evaluations, 2.00 s each): 0.050" in said


def test_means_are_stated_with_their_spread_and_number() -> None:
    """The standard deviation of 1, 2, 3 is 1; one value has none; nothing is a dash."""
    rows = [line("untrained", {"seed": seed}, macs=value) for seed, value in enumerate((81.0, 82.0, 83.0))]

    assert stated(rows, lambda entry: entry.figures["macs"]) == "82.00 ± 1.00 (3)"
    assert stated(rows[:1], lambda entry: entry.figures["macs"]) == "81.00"
    assert stated([], lambda entry: entry.figures["macs"]) == "-"


def test_seconds_go_to_the_kind_that_was_reported_last() -> None:
    """Search ends where compensation is reported; behind the watch nothing counts."""
    spending = Spending()
    with spending.on("search"):
        sum(range(200_000))
        spending(Phase.COMPENSATE, 0.0)
        sum(range(200_000))
    sum(range(200_000))

    assert spending.wall.keys() == {"search", "compensation"}
    assert all(seconds > 0 for seconds in spending.wall.values())
    assert json.dumps(spending.to_json())


def test_the_memory_that_was_predicted_is_compared_with_what_was_measured() -> None:
    """90 predicted and 100 measured is 10 % off; events without a measurement do not count."""
    events = [{"predicted_bytes": 90, "measured_bytes": 100}, {"predicted_bytes": 50}]

    assert verdicts.misprediction(line("dynamic", {}, facts={"events": events})) == pytest.approx(0.1)
    assert verdicts.misprediction(line("dynamic", {}, facts={"events": events[1:]})) is None
