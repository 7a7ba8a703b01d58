"""Files with damaged bytes and nonsense in their fields, each analysed by a child as the product does it.

    python -m tests.matrix.damage [--seconds 300] [--count N] [--seed 0] FILE...

Every damaged file goes through the door of an attempt in a process of its own, inside the sandbox, with its limits. It
ends with an analysis, with a refusal of the engine by name, or with the death of the process, which a supervisor
reports by name too; anything else is printed and makes the exit status 1, and the file is kept.
"""

import argparse
import collections
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from workers import pipeline
from workers.attempt import Order, perform
from workers.sandbox import Limits

NUMBERS = (0, 1, -1, 2, 3, 7, 64, 255, 2**15, 2**31 - 1, -(2**31), 2**31, 2**62, -(2**63), 2**63 - 1)
LIMITS = Limits(memory_bytes=3 * 2**30, cpu_seconds=60, file_bytes=2**28, open_files=256, nice=0)
# What a user can read: the analysis, a refusal that names what is wrong, a process whose death the supervisor reports.
FORESEEN = frozenset({
    "analysed", "died", "external-data", "invalid-model", "model-too-large", "non-finite-values", "nothing-to-prune",
    "out-of-memory", "unknown-shape", "unsupported-operator", "unsupported-opset",
})  # fmt: skip
Damage = Callable[[bytes, random.Random], bytes]


def flipped(content: bytes, draw: random.Random) -> bytes:
    """A few bytes replaced, most of them near the ends, where the graph is written rather than the weights."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        changed[_position(content, draw)] = draw.randrange(256)
    return bytes(changed)


def removed(content: bytes, draw: random.Random) -> bytes:
    """A run of bytes left out."""
    start = _position(content, draw)
    return content[:start] + content[start + draw.randint(1, 40) :]


def repeated(content: bytes, draw: random.Random) -> bytes:
    """A run of bytes written twice."""
    start = _position(content, draw)
    return content[: start + draw.randint(1, 200)] + content[start:]


def truncated(content: bytes, draw: random.Random) -> bytes:
    """The end cut off."""
    return content[: _position(content, draw)]


def _position(content: bytes, draw: random.Random) -> int:
    near = min(len(content), 6000)
    return draw.choice((draw.randrange(near), len(content) - 1 - draw.randrange(near), draw.randrange(len(content))))


def nonsense(content: bytes, draw: random.Random) -> bytes:
    """A valid message with one to three fields that make no sense: lengths, names, operators, attributes, order."""
    model = onnx.ModelProto.FromString(content)
    for _ in range(draw.randint(1, 3)):
        _spoil(_message(model, draw), draw)
    return model.SerializeToString()


def _message(model: onnx.ModelProto, draw: random.Random) -> Message:
    """A message somewhere in the file; nodes and values more often than the rest."""
    graph = model.graph
    nodes: list[Message] = [*graph.node] or [graph]
    values: list[Message] = [*graph.input, *graph.output, *graph.value_info] or nodes
    chosen: Message = draw.choice((
        model, graph, draw.choice(nodes), draw.choice(nodes), draw.choice(nodes),
        draw.choice([*graph.initializer] or nodes), draw.choice(values),
    ))  # fmt: skip
    while draw.random() < 0.7:
        inner = [
            message
            for field, value in chosen.ListFields()
            if field.type == FieldDescriptor.TYPE_MESSAGE
            for message in (value if field.is_repeated else [value])
        ]
        if not inner:
            break
        chosen = draw.choice(inner)
    return chosen


def _spoil(message: Message, draw: random.Random) -> None:
    fields = [(field, value) for field, value in message.ListFields() if field.name != "raw_data"]
    if not fields:
        return
    field, value = draw.choice(fields)
    if not field.is_repeated:
        if field.type == FieldDescriptor.TYPE_MESSAGE or draw.random() < 0.3:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, _other(field, value, draw))
        return
    index, kind = draw.randrange(len(value)), draw.random()
    if kind < 0.3:
        del value[index]
    elif kind < 0.5 or field.type == FieldDescriptor.TYPE_MESSAGE:
        value.append(value[index])
    else:
        value[index] = _other(field, draw.choice(value), draw)


def _other(field: FieldDescriptor, value: object, draw: random.Random) -> object:
    if field.type in {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES}:
        word = draw.choice(("", "x", "Relu", "Reshape", "Loop", "Gather", "Conv", "../a", "n" * 300, str(value)))
        return word if field.type == FieldDescriptor.TYPE_STRING else word.encode()
    if field.type in {FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE}:
        return draw.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
    if field.type == FieldDescriptor.TYPE_ENUM:
        return draw.choice([entry.number for entry in field.enum_type.values])
    narrow = field.type in {FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_UINT32}
    return draw.choice([number for number in NUMBERS if not narrow or abs(number) < 2**31])


DAMAGES: tuple[Damage, ...] = (flipped, flipped, removed, repeated, truncated, nonsense, nonsense, nonsense, nonsense)


def outcome(content: bytes, folder: Path) -> str:
    """What the analysis of a file ends with: `analysed`, `died`, or the code of the problem."""
    path, report = folder / "network.onnx", folder / "report"
    path.write_bytes(content)
    report.write_bytes(b"")
    child = os.fork()
    if child == 0:
        _analyse(path, report)
    until, status = time.monotonic() + 120, 0
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "takes longer than two minutes"
        time.sleep(0.002)
    status = ended[1]
    said = report.read_text().split()
    return said[-1] if said else ("died" if os.WIFSIGNALED(status) else f"exit status {status}")


def _analyse(path: Path, report: Path) -> None:
    """In the child: what an attempt does, without a pipe."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    lines = report.open("w")

    def emit(event: Mapping[str, object]) -> None:
        if event["event"] in {"problem", "result"}:
            lines.write(f" {event['code'] if event['event'] == 'problem' else 'analysed'}")
            lines.flush()

    folder = path.parent
    order = Order(
        kind="analyse_model", spec={}, seed=0, limits=LIMITS, num_threads=1, network=path, dataset=None, out=folder,
        checkpoints=folder, write=(folder,),
    )  # fmt: skip
    try:
        perform(order, emit)
    finally:
        os._exit(0)


def main() -> int:
    """Damage the given files until the time or the count is used up; print how many ended how."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--count", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    assert pipeline.analyse_network is not None  # the engine is loaded once, before the first fork
    contents = {path.stem: path.read_bytes() for path in arguments.files}
    counts: collections.Counter[str] = collections.Counter()
    bad, number, until = [], 0, time.monotonic() + arguments.seconds
    with tempfile.TemporaryDirectory() as name:
        while time.monotonic() < until and (arguments.count is None or number < arguments.count):
            draw = random.Random(f"{arguments.seed} {number}")
            stem, damage = draw.choice(sorted(contents)), draw.choice(DAMAGES)
            content = damage(contents[stem], draw)
            found = outcome(content, Path(name))
            counts[found] += 1
            if found not in FORESEEN:
                kept = arguments.keep / f"damaged_{arguments.seed}_{number}.onnx"
                kept.write_bytes(content)
                bad.append(f"{stem}, {damage.__name__}: {found}, kept as {kept}")
            number += 1
    told = {"files": number, "outcomes": dict(counts.most_common()), "unforeseen": bad}
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
