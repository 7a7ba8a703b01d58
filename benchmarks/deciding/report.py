"""Markdown from the results file: every figure of the page is computed here from stored rows, none is typed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks.deciding import verdicts
from benchmarks.deciding.ledger import Line
from benchmarks.deciding.statistics import by, figure, mean, of_method, stated

BEGIN: Final = "<!-- deciding: begin -->"
END: Final = "<!-- deciding: end -->"
NOTHING: Final = "-"


class MarkersMissing(Exception):
    """A page without the place that the report fills."""


def write_report(lines: Sequence[Line], page: Path | None) -> None:
    """Print the tables, or put them between the markers of a page.

    Raises:
        MarkersMissing: the page lacks the markers.
    """
    text = markdown(lines)
    if page is None:
        print(text)
        return
    old = page.read_text("utf-8")
    if BEGIN not in old or END not in old:
        raise MarkersMissing(f"{page} has no {BEGIN} and {END}")
    before, after = old.split(BEGIN)[0], old.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", "utf-8")


def markdown(lines: Sequence[Line]) -> str:
    """Give all tables that have rows, in the order of the questions."""
    sections: Sequence[tuple[str, str, Callable[[Sequence[Line]], str]]] = (
        ("untrained", "Without training", _untrained),
        ("time", "Time to the accuracy of the peer", _time),
        ("trained", "After equal steps of our recipe", _trained),
        ("long", "After long training", _long),
        ("full", "Full budget on a GPU", _long),
        ("search", "Search time", _search),
        ("rounds", "Rounds with a stop rule", _rounds),
        ("folds", "Rounds, cross-validated", _folds),
        ("filters", "Four of five filters gone", _filters),
        ("dynamic", "Pruned while trained from nothing", _dynamic),
    )
    parts = [_setting(lines)]
    for table, title, render in sections:
        rows = [line for line in lines if line.table == table]
        if rows:
            parts.append(f"### {title}\n\n{render([*rows, *(line for line in lines if line.table == 'originals')])}")
    parts.append(f"### Targets\n\n{_targets(lines)}")
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _setting(lines: Sequence[Line]) -> str:
    hosts = sorted({str(line.setting["host"]) for line in lines})
    versions = sorted({f"{n} {v}" for line in lines for n, v in line.setting["versions"].items() if v})  # type: ignore[union-attr]  # written by us
    threads = sorted({str(line.setting["threads"]) for line in lines})
    on_gpu = any(line.setting["device"] != "cpu" for line in lines)
    gpu = "" if on_gpu else " No GPU was at hand: the full-budget table (`full --device cuda`) was not run."
    few = sum(1 for line in lines if line.setting["num_test"] or line.setting["num_train"])
    trial = f" {few} rows are trials on part of the images." if few else ""
    return (
        f"{len(lines)} rows; {'; '.join(hosts)}; {', '.join(threads)} thread a run; "
        f"{', '.join(versions)}.{gpu}{trial}\n"
        "Accuracy in percent on all test images of the network (CIFAR-10 as JPEG: 10,000), mean ± standard deviation\n"
        "over seeds (their number in brackets). Seconds are processor seconds of one thread."
    )


def _untrained(lines: Sequence[Line]) -> str:
    parts = []
    for (network, ratio), rows in by(lines, "untrained", ("network", "ratio")).items():
        entries = []
        for method, found in of_method(rows).items():
            entries.append(
                (
                    mean(found, _final),
                    [
                        method,
                        stated(found, _accuracy("raw")),
                        stated(found, _accuracy("recalibrated")),
                        stated(found, _accuracy("compensated")),
                        stated(found, _lossless),
                        *_seconds(found),
                        *_costs(found),
                    ],
                )
            )
        header = ("method", "cut only", "BN re-estimated", "compensated", "lossless images")
        table = _table((*header, "search s", "compensation s", *_COSTS), _best_first(entries))
        parts.append(f"{_heading(lines, network, ratio)}\n\n{table}{_impossible(rows)}")
        parts.append(verdicts.untrained(rows))
    return "\n\n".join(part for part in parts if part)


def _time(lines: Sequence[Line]) -> str:
    parts = []
    for (network, ratio), rows in by(lines, "time", ("network", "ratio")).items():
        entries = []
        for (method, recipe, count), found in by(rows, "time", ("method", "recipe", "steps")).items():
            name = f"{method}, {str(recipe).replace('_', '-')}"
            entries.append([name, str(count), stated(found, _accuracy("trained")), *_seconds(found, total=True)])
        header = ("contender, recipe", "steps", "accuracy", "search s", "compensation s", "training s", "all s")
        parts.append(f"{_heading(lines, network, ratio)}\n\n{_table(header, entries)}")
        parts.append(verdicts.time(rows))
    return "\n\n".join(part for part in parts if part)


def _trained(lines: Sequence[Line]) -> str:
    parts = []
    for (network, ratio, count), rows in by(lines, "trained", ("network", "ratio", "steps")).items():
        entries = []
        for method, found in of_method(rows).items():
            cells = [method, stated(found, _accuracy("trained")), stated(found, _lossless)]
            entries.append((mean(found, _final), [*cells, *_seconds(found, total=True), *_costs(found)]))
        header = ("method", "accuracy", "lossless images", "search s", "compensation s", "training s", "all s")
        heading = f"{_heading(lines, network, ratio)}, {count} steps"
        parts.append(f"{heading}\n\n{_table((*header, *_COSTS), _best_first(entries))}")
    return "\n\n".join(parts)


def _long(lines: Sequence[Line]) -> str:
    entries = []
    keys = ("network", "ratio", "epochs", "method", "device")
    for table in ("long", "full"):
        for (network, ratio, epochs, method, device), found in by(lines, table, keys).items():
            loss = stated(found, lambda line: figure(line, "accuracy", "original", "test") - (_final(line) or 0.0))
            cells = [str(network), f"{ratio:g}", f"{epochs:g}", str(method), str(device)]
            entries.append([*cells, stated(found, _accuracy("trained")), loss, *_seconds(found, total=True)])
    header = ("network", "MACs asked", "epochs", "method", "device", "accuracy", "lost")
    rows = [line for line in lines if line.table in {"long", "full"}]
    return f"{_table((*header, 'search s', 'compensation s', 'training s', 'all s'), entries)}\n\n{verdicts.long(rows)}"


def _search(lines: Sequence[Line]) -> str:
    entries = []
    for (network, ratio, method, count), found in by(
        lines, "search", ("network", "ratio", "method", "evaluations")
    ).items():
        cells = [str(network), f"{ratio:g}", str(method), str(count or NOTHING), *_seconds(found)]
        entries.append([*cells, stated(found, lambda line: figure(line, "accuracy", "untrained", "test"))])
    header = ("network", "MACs asked", "method", "evaluations", "search s", "compensation s", "accuracy, untrained")
    rows = [line for line in lines if line.table == "search"]
    return f"{_table(header, entries)}\n\n{verdicts.search(rows)}"


def _rounds(lines: Sequence[Line]) -> str:
    entries = []
    for line in [line for line in lines if line.table == "rounds"]:
        facts = line.figures["facts"]
        rounds = facts["rounds"]
        accepted = [entry for entry in rounds if entry["accepted"]]
        entries.append(
            [
                str(line.key["network"]),
                f"{line.key['epochs']:g}",
                str(line.key["seed"]),
                f"{len(rounds)} ({len(accepted)})",
                str(facts["stopped_by"]),
                f"{figure(line, 'accuracy', 'original', 'test'):.1f}",
                f"{_final(line):.1f}",
                f"{figure(line, 'macs'):.3f}",
                f"{figure(line, 'latency_ratio') or float('nan'):.3f}",
                f"{verdicts.total(line):.0f}",
            ]
        )
    header = ("network", "epochs a round", "seed", "rounds (accepted)", "stopped by", "original", "accuracy")
    rows = [line for line in lines if line.table == "rounds"]
    return f"{_table((*header, 'MACs', 'latency', 'all s'), entries)}\n\n{verdicts.rounds(rows)}"


def _folds(lines: Sequence[Line]) -> str:
    parts = []
    for line in [line for line in lines if line.table == "folds"]:
        facts = line.figures["facts"]
        after = [
            [
                str(entry["round"]),
                f"{entry['channels']:.1f}",
                f"{100 * entry['accuracy_mean']:.1f} ± {100 * entry['accuracy_deviation']:.1f}",
                f"{100 * entry['accuracy_least']:.1f} to {100 * entry['accuracy_most']:.1f}",
            ]
            for entry in facts["rounds_over_folds"]
        ]
        ends = "; ".join(
            f"fold {entry['fold']}: {100 * entry['accuracy_before']:.1f} to {100 * entry['accuracy']:.1f} in "
            f"{entry['rounds']} rounds, {entry['stopped_by']}"
            for entry in facts["folds"]
        )
        header = ("round", "channels left, mean", "accuracy over folds, mean ± deviation", "range")
        name = f"{line.key['network']}, {line.key['epochs']:g} epochs a round, seed {line.key['seed']}"
        parts.append(f"{name}\n\n{_table(header, after)}\n\n{ends}.")
    return "\n\n".join(parts)


def _filters(lines: Sequence[Line]) -> str:
    entries = []
    for (network, method, count), found in by(lines, "filters", ("network", "method", "steps")).items():
        entries.append(
            [
                str(network),
                str(method),
                str(count),
                stated(found, lambda line: 100 * figure(line, "facts", "filters_left")),
                stated(found, lambda line: figure(line, "accuracy", "original", "test")),
                stated(found, _accuracy("trained")),
                *_seconds(found, total=True),
                *_costs(found),
                stated(found, lambda line: 1 / figure(line, "latency_ratio")),
            ]
        )
    header = ("network", "method", "steps", "filters left, %", "original", "accuracy")
    times = ("search s", "compensation s", "training s", "all s")
    rows = [line for line in lines if line.table == "filters"]
    return f"{_table((*header, *times, *_COSTS, 'times faster'), entries)}\n\n{verdicts.filters(rows)}"


def _dynamic(lines: Sequence[Line]) -> str:
    entries = []
    for (network, mode, epochs), found in by(lines, "dynamic", ("network", "mode", "epochs")).items():
        entries.append(
            [
                str(network),
                str(mode),
                f"{epochs:g}",
                stated(found, lambda line: figure(line, "params")),
                stated(found, _accuracy("trained")),
                *(
                    stated(found, lambda line, name=name: figure(line, "facts", f"memory_bytes_{name}") / 2**20)
                    for name in ("first", "last", "most")
                ),
                stated(found, verdicts.misprediction),
                stated(found, lambda line: figure(line, "seconds", "cpu", "training")),
            ]
        )
    header = ("network", "mode", "epochs", "params", "accuracy", "MiB at first", "MiB at last", "MiB at most")
    rows = [line for line in lines if line.table == "dynamic"]
    table = _table((*header, "largest error of predicted memory", "training s"), entries)
    return f"{table}\n\n{verdicts.dynamic(rows)}"


def _targets(lines: Sequence[Line]) -> str:
    """Every row against its target."""
    reached: dict[str, list[float]] = {}
    for line in lines:
        for value in (line.figures.get("reached_over_limit") or {}).values():
            if line.key.get("mode") != "dense":
                reached.setdefault(str(line.key.get("method", line.table)), []).append(float(value))
    entries = [
        [
            name,
            str(len(values)),
            f"{min(values):.4f}",
            f"{max(values):.4f}",
            str(sum(value > 1 for value in values)),
            str(sum(value < 0.99 for value in values)),
        ]
        for name, values in sorted(reached.items())
    ]
    header = ("method", "rows", "least of the limit used", "most", "rows above it", "rows more than 1 % below")
    note = "Rows of `taylor` in rounds stop where accuracy falls and so may stay above their target on purpose."
    return f"{_table(header, entries)}\n\n{note}"


_COSTS: Final = ("MACs", "params", "latency")


def _costs(found: Sequence[Line]) -> list[str]:
    return [stated(found, lambda line, name=name: figure(line, name)) for name in ("macs", "params", "latency_ratio")]


def _seconds(found: Sequence[Line], *, total: bool = False) -> list[str]:
    kinds = ("search", "compensation", "training") if total else ("search", "compensation")
    cells = [stated(found, lambda line, kind=kind: figure(line, "seconds", "cpu", kind)) for kind in kinds]
    return [*cells, stated(found, verdicts.total)] if total else cells


def _accuracy(stage: str) -> Callable[[Line], float | None]:
    return lambda line: figure(line, "accuracy", stage, "test")


def _final(line: Line) -> float | None:
    return figure(line, "accuracy", str(line.figures.get("final")), "test")


def _lossless(line: Line) -> float | None:
    return figure(line, "accuracy", str(line.figures.get("final")), "test_lossless")


def _heading(lines: Sequence[Line], network: object, ratio: object) -> str:
    found = [line for line in lines if line.table == "originals" and line.key["network"] == network]
    original = "" if not found else f"; original {figure(found[0], 'accuracy', 'original', 'test'):.2f}"
    return f"{network}, {100 * float(str(ratio)):.4g} % of the MACs{original}"


def _impossible(rows: Sequence[Line]) -> str:
    said = sorted(
        {f"{line.key['method']}: {line.figures['impossible']}" for line in rows if "impossible" in line.figures}
    )
    return f"\n\nNot possible: {'; '.join(said)}." if said else ""


def _best_first(entries: Sequence[tuple[float | None, list[str]]]) -> list[list[str]]:
    return [cells for value, cells in sorted(entries, key=lambda entry: -(entry[0] or 0.0)) if value is not None]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
