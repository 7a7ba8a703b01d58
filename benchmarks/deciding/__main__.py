"""Run tables of the deciding benchmark, or write what they found into the documentation.

    python -m benchmarks.deciding TABLE [TABLE ...] --out RESULTS.jsonl [--seeds 0 1 2] [--methods auto ...]
    python -m benchmarks.deciding report --out RESULTS.jsonl [--docs docs/benchmarks.md]

Tables: originals untrained trained time long full search rounds folds filters dynamic. Each row is written to RESULTS
as soon as it is known; rows that are there are not computed again. A row that fails is reported and left out, and the
next begins.
"""

import argparse
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from benchmarks.deciding import accuracy_tables, method_tables
from benchmarks.deciding.images import cache_dir
from benchmarks.deciding.ledger import Ledger, Row, named
from benchmarks.deciding.report import write_report
from benchmarks.deciding.subjects import SUBJECTS
from benchmarks.deciding.wishes import Wishes
from benchmarks.deciding.workbench import Bench, Means, setting

TABLES: Final[Mapping[str, Callable[[Wishes], Iterator[Row]]]] = {
    "originals": accuracy_tables.originals,
    "untrained": accuracy_tables.untrained,
    "trained": accuracy_tables.trained_equally,
    "time": accuracy_tables.time_to_accuracy,
    "long": accuracy_tables.long_training,
    "full": accuracy_tables.full_budget,
    "search": method_tables.search_time,
    "rounds": method_tables.rounds,
    "folds": method_tables.folds,
    "filters": method_tables.filters,
    "dynamic": method_tables.dynamic,
}


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; gives 1 where a row failed."""
    asked = _parser().parse_args(arguments)
    ledger = Ledger(asked.out)
    if asked.tables == ["report"]:
        write_report(ledger.lines(), asked.docs)
        return 0
    wishes = _wishes(asked)
    return max([run(TABLES[name](wishes), ledger, wishes.means) for name in asked.tables], default=0)


def run(rows: Iterator[Row], ledger: Ledger, means: Means) -> int:
    """Compute the rows that are not finished; a failure costs its own row alone."""
    failed = 0
    for row in rows:
        if named(row.table, row.key) in ledger.finished():
            continue
        print(f"{row.table} {' '.join(str(value) for value in row.key.values())} ...", end=" ", flush=True)
        started = time.perf_counter()
        try:
            figures = row.compute()
        except Exception:  # noqa: BLE001  # whatever it is, the other rows are worth having
            failed = 1
            print(f"failed after {time.perf_counter() - started:.0f} s\n{traceback.format_exc()}", flush=True)
            continue
        bench = Bench(subject=SUBJECTS[str(row.key["network"])], seed=0, means=means)
        ledger.add(row, figures, setting(bench))
        print(f"{figures.get('accuracy', '')} {time.perf_counter() - started:.0f} s", flush=True)
    return failed


def _wishes(asked: argparse.Namespace) -> Wishes:
    means = Means(
        cache=cache_dir(asked.cache),
        device=asked.device,
        threads=asked.threads,
        num_test=asked.num_test,
        num_train=asked.num_train,
        latency_seconds=asked.latency_seconds,
    )
    names = ("networks", "methods", "ratios", "seeds", "steps", "epochs")
    return Wishes(means=means, asked={name: getattr(asked, name) for name in names}, full=asked.full)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", choices=[*TABLES, "report"])
    parser.add_argument("--out", type=Path, required=True, help="results file, one JSON line a row")
    parser.add_argument("--docs", type=Path, default=None, help="page whose marked part the report replaces")
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", nargs="+", choices=sorted(SUBJECTS))
    parser.add_argument("--methods", nargs="+")
    for name, kind in (("ratios", float), ("seeds", int), ("steps", int), ("epochs", float)):
        parser.add_argument(f"--{name}", nargs="+", type=kind)
    parser.add_argument("--num-test", type=int, default=None, help="judge on the first N test images only")
    parser.add_argument("--num-train", type=int, default=None, help="use the first N training images only")
    parser.add_argument("--latency-seconds", type=float, default=6.0)
    parser.add_argument("--full", action="store_true", help="measure what is otherwise extrapolated")
    return parser


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    sys.exit(main())
