"""The latency table of one device: rows that it has timed, asked for when they are needed and never twice."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Final

from workers.pruning.latency.micro_graph import micro_graph
from workers.pruning.latency.rows import Operand, Row
from workers.pruning.types import Measurement, Stopwatch, TimedNetwork

MOST_ROWS: Final = 244  # asked in one question
UNDISTURBED: Final = 0.9  # of wall time on the processor; below it other programs took part of the time
_LEAST_SHARE: Final = 0.1  # of a timed graph that belongs to its operator, however the boundary comes out


def _convolution(channels: int, side: int, copies: int) -> Row:
    data = Operand(kind="data", shape=(1, channels, side, side))
    weight = Operand(kind="weight", shape=(channels, channels, 3, 3))
    return Row(
        operator="Conv",
        fused=("Relu",),
        operands=(data, weight),
        output=data.shape,
        attributes=(("pads", "1,1,1,1"),),
        copies=copies,
    )


_SINGLE, _FOURFOLD = 1, 4
# Light in work: a single and a fourfold graph differ by three operators, and what is left is the call.
BOUNDARY: Final = tuple(
    (_convolution(channels, side, _SINGLE), _convolution(channels, side, _FOURFOLD))
    for channels, side in ((16, 4), (32, 8), (16, 16))
)
# Timed with every part of a question: a device that is slower than it was is so on these as well.
PACE: Final = tuple(many for _, many in BOUNDARY)
TOGETHER: Final = 64 - len(PACE)  # rows of a part; stopwatches hold 64 sessions at a time


def undisturbed_ms(measurement: Measurement) -> float:
    """The median of a run; of its processor time where other programs took part of the wall time, as the host tells.

    Only a measurement with one thread tells, since its caller does all the work.
    """
    return on_one_clock({"alone": measurement})["alone"]


def _questions(number: int, rows: Sequence[Row]) -> list[TimedNetwork]:
    """Rows to time in turn with each other, and behind them those that tell the pace."""
    beside = [row for row in PACE if row not in rows]
    names = [f"row{number}_{place}" for place in range(len(rows))] + [f"pace{number}_{n}" for n in range(len(beside))]
    return [
        TimedNetwork(name=name, content=micro_graph(row), kind="layer", key=row.key)
        for name, row in zip(names, (*rows, *beside), strict=True)
    ]


def on_one_clock(measurements: Mapping[str, Measurement]) -> dict[str, float]:
    """Medians of networks that were timed in turn, all of processor time where one of them was disturbed.

    A ratio of the processor time of one and the wall time of the other would be neither.
    """
    alone = {name: one.host.get("on_cpu_p50_ms") for name, one in measurements.items()}
    shares = [one.host.get("on_cpu_share") for one in measurements.values()]
    if any(isinstance(share, float) and share < UNDISTURBED for share in shares):
        told = {name: ms for name, ms in alone.items() if isinstance(ms, float)}
        if len(told) == len(measurements):
            return told
    return {name: one.p50_ms for name, one in measurements.items()}


class Table:
    """Milliseconds of operators on one device, from the graphs that were timed there."""

    def __init__(self, stopwatch: Stopwatch, *, known: Mapping[str, float] | None = None) -> None:
        self._stopwatch = stopwatch
        self._raw = dict(stopwatch.known() if known is None else known)
        self._read: dict[str, Row | None] = {}
        self._refused: set[str] = set()
        self.asked: list[str] = []
        self.reused: set[str] = set()
        self._call_ms: float | None = None

    def fill(self, rows: Iterable[Row], *, most: int = MOST_ROWS) -> int:
        """Have the device time the rows that are missing, at most so many, in one question; returns how many.

        A row that the device did not answer is not asked for again. Other programs come and go between two questions,
        so each brings rows that were timed before, and what those take now over what they took is divided out.

        Raises:
            DeviceGone: the device did not answer.
        """
        wanted = {row.key: row for row in rows}
        self.reused |= {key for key in wanted if key in self._raw and key not in self.asked}
        missing = [row for key, row in wanted.items() if key not in self._raw and key not in self._refused][:most]
        parts = [missing[start : start + TOGETHER] for start in range(0, len(missing), TOGETHER)]
        if parts:
            questions = [_questions(number, part) for number, part in enumerate(parts)]
            answers = self._stopwatch.time([each for asked in questions for each in asked])
            for asked, part in zip(questions, parts, strict=True):
                self._take(part, asked, {name: undisturbed_ms(one) for name, one in answers.items()})
            self._call_ms = None
        return len(missing)

    def _take(self, rows: Sequence[Row], asked: Sequence[TimedNetwork], answers: Mapping[str, float]) -> None:
        """Take the answers on these rows at the pace of the first ones, as the rows beside them tell it."""
        beside = asked[len(rows) :]
        pace = self.pace({one.key: answers[one.name] for one in beside if one.key and one.name in answers})
        for row, one in zip(rows, asked, strict=False):
            if one.name in answers:
                self._raw[row.key] = answers[one.name] / pace
                self.asked.append(row.key)
            else:
                self._refused.add(row.key)

    def pace(self, now: Mapping[str, float]) -> float:
        """What rows take now, by key, over what they took when they came into the table; 1 where none is known."""
        paces = [ms / self._raw[key] for key, ms in now.items() if key in self._raw]
        return median(paces) if paces else 1.0

    def fill_boundary(self) -> None:
        """Time what entering and leaving a graph costs, once per device.

        Raises:
            DeviceGone: the device did not answer.
        """
        self.fill(row for pair in BOUNDARY for row in pair)

    @property
    def call_ms(self) -> float:
        """What calling the runtime costs."""
        if self._call_ms is None:
            self._call_ms = self._call()
        return self._call_ms

    def ms(self, row: Row) -> float | None:
        """Time of one copy of a row's operator, or None where it was not timed.

        Source: derivation. A graph of n copies takes call + n x operator, and the call is known from pairs of graphs
        that differ in n alone.
        """
        whole = self._raw.get(row.key)
        if whole is None:
            return None
        return max(whole - self.call_ms, _LEAST_SHARE * whole) / row.copies

    def timings(self) -> dict[str, float]:
        """What the graphs of all rows took, by key, at the pace of the first: what another table may start from."""
        return dict(self._raw)

    def used(self) -> set[str]:
        """Keys of the rows that this network needed, asked or known before."""
        return self.reused.union(self.asked)

    def rows(self) -> list[Row]:
        """All rows that were timed, of any network; keys that this version does not read are passed over."""
        for key in sorted(self._raw.keys() - self._read.keys()):
            try:
                self._read[key] = Row.parse(key)
            except (ValueError, IndexError):
                self._read[key] = None
        return [row for key in sorted(self._raw) if (row := self._read[key]) is not None]

    def _call(self) -> float:
        pairs = [(self._raw.get(one.key), self._raw.get(four.key)) for one, four in BOUNDARY]
        crossings = [(_FOURFOLD * one - four) / (_FOURFOLD - _SINGLE) for one, four in pairs if one and four]
        return max(0.0, median(crossings)) if crossings else 0.0
