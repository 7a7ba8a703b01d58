"""`espalier`: serve, prune, jobs, report, models, doctor and those of device_commands.py. It never loads torch."""

import functools
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from app import device_commands
from app.client import Client, RequestFailed
from app.command import connected, key_option, reported, url_option
from app.console import JobProgress, listing, result_table
from app.settings import Settings

Job = dict[str, Any]
Show = Callable[[Job], None]
Ask = Callable[[Path, Path | None, Job, Path, Show], Job]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="espalier")
def main() -> None:
    """Prune trained networks: ONNX in, smaller and faster ONNX out, with the proof."""


@main.command()
@click.option("--host", default=None, help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, default=None, help="Port to listen on.  [default: 8000]")
@click.option("--data-dir", type=click.Path(path_type=Path), default=None, help="Where database and artifacts live.")
@click.option("--workers", type=click.IntRange(min=1), default=None, help="Number of workers.  [default: 1]")
def serve(**given: Any) -> None:
    """Run the whole service on this machine: web process, bell, housekeeping and workers. Stop it with Ctrl-C."""
    from app.serve import run  # noqa: PLC0415  # the other commands start faster without it

    chosen = {name: value for name, value in given.items() if value is not None}
    sys.exit(run(Settings(**chosen)))


@main.command()
@click.argument("network", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="MODEL")
@click.option("--target", help="What must remain: flops=50%, params=1.2M, latency=8ms@dev_local; joined by commas.")
@click.option(
    "--max-accuracy-drop",
    type=click.FloatRange(0, 1, min_open=True),
    help="0.03 is three points; without a target: the smallest network that falls no further.",
)
@click.option("--data", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A .zip or .npz of samples.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The pruned ONNX.")
@click.option(
    "--method", default="auto", show_default=True, help="auto, easiedge, lcp, dynhp, taylor, magnitude or random."
)
@click.option(
    "--steps", type=click.IntRange(min=0), default=None, help="Fine-tuning steps; 0 for none.  [default: chosen]"
)
@click.option(
    "--head",
    type=click.Choice(["auto", "classifier", "other"]),
    default=None,
    help="What the outputs mean: one score per class, or anything else.  [default: auto, found out]",
)
@click.option(
    "--round-to", type=click.IntRange(min=1), default=None, help="Multiple of kept channels.  [default: learned]"
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--spec", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON of further job fields."
)
@click.option("--local", is_flag=True, help="Prune in a child of this command; no service needed.")
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="With --local: torch threads."
)
@url_option
@key_option
def prune(  # noqa: PLR0913  # each option of the command is one argument
    *,
    network: Path,
    target: str | None,
    max_accuracy_drop: float | None,
    data: Path | None,
    output: Path,
    method: str,
    steps: int | None,
    head: str | None,
    round_to: int | None,
    seed: int,
    spec: Path | None,
    local: bool,
    threads: int,
    url: str,
    key: str | None,
) -> None:
    """Prune MODEL to a target: upload, watch, download, verify."""
    asked: dict[str, Any] = json.loads(spec.read_text()) if spec else {}
    asked |= {"method": method, "seed": seed}
    given = {"target": target, "max_accuracy_drop": max_accuracy_drop, "head": head}
    asked |= {name: value for name, value in given.items() if value is not None}
    if not asked.keys() & {"target", "targets", "max_accuracy_drop"}:
        raise click.UsageError("Give --target, or --max-accuracy-drop, or a spec with one of them.")
    if steps is not None:
        asked["finetune"] = {**asked.get("finetune", {}), "steps": steps}
    if round_to is not None:
        asked["export"] = {**asked.get("export", {}), "round_to": round_to}
    console = Console(stderr=True)
    ask = _prune_locally(threads) if local else _prune_remotely(connected(url, key))
    with JobProgress(console) as bar:
        result = reported(console, lambda: ask(network, data, asked, output, bar.show))
    Console().print(result_table(result))
    for warning in result.get("warnings", ()):
        console.print(f"[yellow]note[/yellow] {warning}")
    console.print(f"wrote {output}")


def _prune_locally(num_threads: int) -> Ask:
    """Return the way without a service."""
    from app.local import prune_locally  # noqa: PLC0415  # only this flag needs it

    return functools.partial(prune_locally, num_threads=num_threads)


def _prune_remotely(client: Client) -> Ask:
    """Return the way through the service: upload, submit, watch, download with the digest verified."""

    def ask(network: Path, data: Path | None, asked: Job, output: Path, show: Show) -> Job:
        inputs = {"model": client.upload_model(network)["id"]}
        if data is not None:
            inputs["dataset"] = client.upload_dataset(data)["id"]
        job = client.submit(**inputs, **asked)
        try:
            job = client.wait(job["id"], on_progress=show)
        except KeyboardInterrupt:
            client.cancel(job["id"])
            raise
        if job["state"] != "succeeded":
            raise RequestFailed(job["problem"] or {"title": f"The job was {job['state']}", "detail": job["id"]})
        client.download(job, output)
        result: Job = job["result"]
        return result

    return ask


@main.command()
@click.argument("job", required=False)
@click.option("--cancel", is_flag=True, help="Cancel JOB.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(min=1))
@url_option
@key_option
def jobs(*, job: str | None, cancel: bool, limit: int, url: str, key: str | None) -> None:
    """List jobs, or show or cancel one."""
    console = Console()
    client = connected(url, key)
    if job is None:
        newest = reported(console, lambda: list(itertools.islice(client.jobs(), limit)))
        rows = [(j["id"], j["state"], j["method"], j["created_at"], _phase(j)) for j in newest]
        console.print(listing("jobs", ("id", "state", "method", "created", "progress"), rows))
    else:
        console.print_json(data=reported(console, lambda: client.cancel(job) if cancel else client.job(job)))


def _phase(job: dict[str, Any]) -> str:
    progress = job.get("progress") or {}
    return f"{progress['phase']} {100 * (progress.get('fraction') or 0):.0f}%" if progress.get("phase") else ""


@main.command()
@click.argument("job")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The page.")
@url_option
@key_option
def report(*, job: str, output: Path, url: str, key: str | None) -> None:
    """Download the report of JOB: one page, to be opened in any browser."""
    console = Console(stderr=True)
    with Client(url, key) as client:
        reported(console, lambda: client.download(job, output, ending="report.html"))
    console.print(f"wrote {output}")


@main.command()
@click.argument("network", required=False, metavar="[MODEL]")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(min=1))
@url_option
@key_option
def models(*, network: str | None, limit: int, url: str, key: str | None) -> None:
    """List uploaded models, or show one with its analysis."""
    console = Console()
    client = connected(url, key)
    if network is None:
        newest = reported(console, lambda: list(itertools.islice(client.models(), limit)))
        rows = [(m["id"], m["name"], m["state"], m["size_bytes"], m["created_at"]) for m in newest]
        console.print(listing("models", ("id", "name", "state", "bytes", "created"), rows))
    else:
        console.print_json(data=reported(console, lambda: client.model(network)))


@main.command()
@click.option("--worker", is_flag=True, help="Only what a worker needs; exit status 1 if it could not work.")
def doctor(*, worker: bool) -> None:
    """Say what works on this machine: torch, devices, bell, database, sandbox layers."""
    from app.doctor import examine  # noqa: PLC0415  # starts processes; only this command needs it

    findings = examine(Settings(), worker_only=worker)
    rows = [(finding.what, "yes" if finding.works else "no", finding.detail) for finding in findings]
    Console().print(listing("this machine", ("what", "works", "detail"), rows))
    sys.exit(0 if all(finding.works for finding in findings if finding.needed) else 1)


for _command in device_commands.COMMANDS:
    main.add_command(_command)


if __name__ == "__main__":
    main()
