"""`espalier devices`, `agent`, `measurements`, `compare`: what concerns devices and their record."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from app.command import connected, key_option, reported, url_option
from app.console import listing

_FILE: Final = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("networks", nargs=-1, metavar="[MODEL|ARTIFACT]...")
@click.option("--register", metavar="NAME", help="Register a device; its token is shown this once.")
@click.option("--revoke", metavar="DEVICE", help="Take a device's token back.")
@click.option("--on", "device", metavar="DEVICE", help="Ask DEVICE for these latencies; several are timed in turn.")
@click.option("--threads", type=click.IntRange(min=1), help="With --on.  [default: the device's own]")
@click.option("--batch", type=click.IntRange(min=1), help="With --on: samples of a run.  [default: 1]")
@click.option("--provider", help="With --on: ONNX Runtime's execution provider.  [default: the device's own]")
@click.option("--profile", is_flag=True, help="With --on: also what each operator takes.")
@url_option
@key_option
def devices(  # noqa: PLR0913  # each option of the command is one argument
    *,
    networks: tuple[str, ...],
    register: str | None,
    revoke: str | None,
    device: str | None,
    threads: int | None,
    batch: int | None,
    provider: str | None,
    profile: bool,
    url: str,
    key: str | None,
) -> None:
    """List devices, register or revoke one, or ask one for the latencies of models and artifacts."""
    if bool(networks) != (device is not None):
        raise click.UsageError("A measurement needs both: models or artifacts, and --on DEVICE.")
    console = Console()
    client = connected(url, key)
    if register:
        console.print_json(data=reported(console, lambda: client.register_device(register)))
    elif revoke:
        reported(console, lambda: client.revoke_device(revoke))
    elif device:
        given = {"threads": threads, "batch": batch, "provider": provider, "profile": profile or None}
        how = {name: value for name, value in given.items() if value is not None}
        console.print_json(data=reported(console, lambda: client.measure(device, *networks, **how)))
    else:
        found = reported(console, lambda: list(client.devices()))
        rows = [(d["id"], d["name"], d["state"], d["seen_at"] or "", _processor(d)) for d in found]
        console.print(listing("devices", ("id", "name", "state", "seen", "processor"), rows))


def _processor(device: dict[str, Any]) -> str:
    known = device["attributes"] or {}
    return " ".join(str(known[key]) for key in ("board", "cpu") if known.get(key))


@click.command()
@url_option
@click.option("--token", envvar="ESPALIER_DEVICE_TOKEN", help="The device's token, from its registration.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Where none are asked.")
@click.option("--provider", default="cpu", show_default=True, help="Where none is asked: cuda, xnnpack, ..., or best.")
@click.option("--work-dir", type=click.Path(file_okay=False, path_type=Path), help="[default: in ~/.cache]")
@click.option("--once", is_flag=True, help="End when there is nothing more to do.")
@click.option("--bundle", type=click.Path(dir_okay=False, path_type=Path), help="Write the agent as one file instead.")
def agent(
    *, url: str, token: str | None, threads: int, provider: str, work_dir: Path | None, once: bool, bundle: Path | None
) -> None:
    """Measure networks on this machine for a service. Needs the extra `edge`, or --bundle FILE copied to a device."""
    if bundle is None and not token:
        raise click.UsageError("The agent needs a token: --token or ESPALIER_DEVICE_TOKEN.")
    command = [sys.executable, "-m"]
    if bundle is not None:
        command += ["workers.edge_bundle", str(bundle)]
    else:
        command += ["workers.edge_agent", "--url", url, "--threads", str(threads), "--provider", provider]
        command += ["--work-dir", str(work_dir)] if work_dir else []
        command += ["--once"] if once else []
    # By name, since this side never imports workers; the token by environment, where other users cannot read it.
    os.execve(sys.executable, command, {**os.environ, "ESPALIER_DEVICE_TOKEN": token or ""})  # noqa: S606


@click.command()
@click.option("--on", "device", metavar="DEVICE", help="Only of DEVICE.")
@click.option("--of", "network", metavar="MODEL|ARTIFACT|SHA256", help="Only of this network.")
@click.option("--kind", type=click.Choice(["network", "layer"]), help="Only whole networks, or only layers.")
@click.option("--export", "target", type=_FILE, help="Write all of them to a .json, .csv or .parquet file.")
@click.option("--import", "origin", type=_FILE, help="Bring an export of another service into the record.")
@click.option("--source", default="", help="With --import: what you call its origin.")
@click.option("--as", "counted", default="", metavar="DEVICE", help="With --import: your device they count for.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(min=1))
@url_option
@key_option
def measurements(  # noqa: PLR0913  # each option of the command is one argument
    *,
    device: str | None,
    network: str | None,
    kind: str | None,
    target: Path | None,
    origin: Path | None,
    source: str,
    counted: str,
    limit: int,
    url: str,
    key: str | None,
) -> None:
    """List measured latencies, newest first; export them, or import those of another service."""
    console = Console()
    client = connected(url, key)
    given = {"device": device, "kind": kind, **_named(network)}
    which = {name: value for name, value in given.items() if value is not None}
    if origin is not None:
        console.print_json(
            data=reported(console, lambda: client.import_measurements(origin, source=source, device=counted))
        )
    elif target is not None:
        reported(console, lambda: client.export_measurements(target, **which))
        console.print(f"wrote {target}")
    else:
        found = reported(console, lambda: list(itertools.islice(client.measurements(**which), limit)))
        rows = [(m["id"], m["device"], _subject(m), f"{m['p50_ms']:.4g} ms", _how(m), _doubt(m)) for m in found]
        console.print(listing("measurements", ("id", "device", "of", "median", "how", ""), rows))


def _named(network: str | None) -> dict[str, str | None]:
    """By which filter a network is named: its id says which."""
    prefix = (network or "").partition("_")[0]
    return {{"mdl": "model", "art": "artifact"}.get(prefix, "sha256"): network}


def _subject(found: dict[str, Any]) -> str:
    return str(found["key"] or found["artifact"] or found["model"] or found["sha256"][:16])


def _how(found: dict[str, Any]) -> str:
    provider = found["provider"].removesuffix("ExecutionProvider")
    return f"{found['threads']} thread(s), batch {found['batch']}, {provider}"


def _doubt(found: dict[str, Any]) -> str:
    return ", ".join(filter(None, ("imported" if found["source"] else "", "not stable" if found["unstable"] else "")))


@click.command()
@click.argument("first", metavar="JOB")
@click.argument("second", metavar="JOB")
@url_option
@key_option
def compare(*, first: str, second: str, url: str, key: str | None) -> None:
    """Show where the plans of two jobs differ, and why: widths side by side, steps that the devices like."""
    console = Console()
    client = connected(url, key)
    jobs = reported(console, lambda: [client.job(job) for job in (first, second)])
    for job in jobs:
        if job["result"] is None:
            raise click.UsageError(f"{job['id']} is {job['state']} and has no plan.")
    plans = [(str(job["result"].get("target") or job["id"]), job["result"]) for job in jobs]
    # By name, since this side never imports workers; what is started loads nothing of the engine.
    command = [sys.executable, "-m", "workers.report.differences"]
    done = subprocess.run(command, input=json.dumps(plans), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    rows = [(one["layer"], one["before"], *one["widths"], one["why"]) for one in found["layers"]]
    heads = ("layer", "original", *(name for name, _ in plans), "why")
    console.print(listing("layers that differ", heads, rows) if rows else "The plans give every layer the same width.")
    for (name, _), learned in zip(plans, found["steps"], strict=True):
        for device, kinds in learned.items():
            told = ", ".join(f"{kind} {step}" for kind, step in sorted(kinds.items()))
            console.print(f"{name}: steps in channels on {device}: {told or 'none learned'}")


COMMANDS: Final = (devices, agent, measurements, compare)
