"""The child of one attempt: what it tells, how it dies, what it may reach. Real processes, a stand-in engine."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.waiting import alive, descendants, pid_runs, wait_for
from tests.workers.folders import COMMAND, events_until_end, lay_out, script, started
from workers.attempt import problem_of
from workers.child import Child
from workers.pruning.errors import TargetUnreachable


def last(folder: Path, *steps, **limits) -> tuple[dict, object]:
    """The last event of an attempt that follows a script, and its death."""
    child = started(lay_out(folder, script(*steps), **limits))
    return events_until_end(child)[-1], child


def test_an_attempt_tells_its_layers_its_checkpoints_its_progress_and_its_result(tmp_path) -> None:
    """The lines come in the order of the work, the result last, and the artifact lies in `out`."""
    child = started(lay_out(tmp_path, script(("phase", "load"), ("step", "score"), ("phase", "finetune"))))
    events = events_until_end(child)

    assert ["sandbox", "progress", "checkpoint", "progress", "result"] == [event["event"] for event in events]
    assert {"event": "checkpoint", "step": "score", "files": ["score.safetensors"]} == events[2]
    assert (tmp_path / "out" / "pruned.onnx").read_bytes().startswith(b"network")
    assert 0 == child.death.exit_status


def test_an_engine_error_becomes_a_problem_record_with_its_four_parts(tmp_path) -> None:
    """What the engine refuses reaches the user whole: code, title, message, where, actual, allowed, advice, phase."""
    problem, _ = last(tmp_path, ("phase", "group"), ("refuse", None))

    assert {
        "event": "problem",
        "code": "nothing-to-prune",
        "title": "Nothing in this model can be pruned",
        "detail": "No channel may be removed; at node_7; found 0; allowed 1 or more. Use another.",
        "where": "node_7",
        "actual": 0,
        "allowed": "1 or more",
        "advice": "Use another.",
        "phase": "group",
        "retryable": False,
    } == problem


def test_an_unforeseen_error_names_its_type_and_keeps_its_text_in_the_log(tmp_path) -> None:
    """A traceback may hold samples or paths: the user sees the type, the operator the log."""
    problem, child = last(tmp_path, ("fail", "secret /root/path"))

    assert ("internal-error", False) == (problem["code"], problem["retryable"])
    assert "RuntimeError" in problem["detail"]
    assert "secret" not in json.dumps(problem)
    assert "secret /root/path" in (tmp_path / "attempt.log").read_text()
    assert "secret /root/path" in child.log_tail


def most_stated(child: Child) -> int:
    """1 GiB; or what this process had at the exec, which the kernel counts and nobody sampled in so short a life."""
    return max(2**30, child.inherited_rss_bytes)


def test_memory_beyond_the_limit_is_a_problem_and_not_the_end_of_the_host(tmp_path) -> None:
    """Eating 8 GiB under a limit of 1 GiB ends as out-of-memory, with less than 1 GiB ever resident."""
    problem, child = last(tmp_path, ("eat", 8 * 2**30), memory_bytes=2**30)

    assert "out-of-memory" == problem["code"]
    assert "bytes at most in use" in problem["actual"]
    assert "1,073,741,824 bytes" == problem["allowed"]
    assert "smaller batch" in problem["advice"]
    assert child.death.peak_rss_bytes <= most_stated(child)


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL", "SIGABRT"])
def test_a_crash_is_data(tmp_path, name) -> None:
    """A child that dies by a signal leaves its name and its peak memory, and no result."""
    child = started(lay_out(tmp_path, script(("phase", "score"), ("crash", name))))
    events = events_until_end(child)

    assert "progress" == events[-1]["event"]
    assert (None, name) == (child.death.exit_status, child.death.signal_name)
    assert 10 * 2**20 < child.death.peak_rss_bytes <= most_stated(child)


def test_a_processor_time_limit_ends_a_child_that_never_stops(tmp_path) -> None:
    """The kernel ends what the deadline of a stuck supervisor would not."""
    child = started(lay_out(tmp_path, script(("eat", 0), ("step", "a"), ("sleep", 0), ("eat", 10**15)), cpu_seconds=1))
    events_until_end(child)

    assert child.death.signal_name in {"SIGXCPU", "SIGKILL"}


def test_a_killed_group_leaves_no_process_behind(tmp_path) -> None:
    """A child that ignores requests, and a descendant in another session, are gone when kill returns."""
    child = started(lay_out(tmp_path, script(("ignore", None), ("spawn", None), ("phase", "score"), ("sleep", 60))))
    while not any(event.get("phase") == "finetune" for event in child.receive(0.1)):
        pass
    family = [psutil.Process(child.process.pid), *descendants(child.process.pid)]
    death = child.kill(grace=0.2)
    child.close()

    assert 2 == len(family)
    assert "SIGKILL" == death.signal_name
    assert [] == alive(family)


def test_a_child_dies_with_its_supervisor(tmp_path) -> None:
    """SIGKILL of the process that started it takes the child along: nothing computes without an owner."""
    lay_out(tmp_path, script(("phase", "score"), ("sleep", 60)))
    program = (
        "import sys, time, pathlib\n"
        "from tests.workers.folders import started\n"
        "child = started(pathlib.Path(sys.argv[1]))\n"
        "while not any(e.get('phase') == 'finetune' for e in child.receive(0.1)): pass\n"
        "print(child.process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    with supervisor:
        pid = int(supervisor.stdout.readline())
        assert psutil.pid_exists(pid)
        supervisor.kill()

    wait_for(lambda: not pid_runs(pid))


def test_a_child_whose_supervisor_is_gone_already_does_nothing(tmp_path) -> None:
    """A child that starts up after its supervisor died must not begin."""
    environment = {**os.environ, "ESPALIER_PARENT": "1", "PYTHONPATH": str(Path.cwd())}
    lay_out(tmp_path, script(("counted", str(tmp_path / "marker"))))
    done = subprocess.run([*COMMAND, str(tmp_path)], env=environment, capture_output=True, text=True, check=False)

    assert done.returncode != 0
    assert "is gone already" in done.stderr
    assert not (tmp_path / "marker").exists()


def test_a_chatty_child_fills_no_disk(tmp_path) -> None:
    """The log of an attempt is bounded; its last lines are still known."""
    child = started(lay_out(tmp_path, script(("say", "x" * 3 * 2**20), ("say", "the end"))))
    events_until_end(child)

    assert 2**20 == (tmp_path / "attempt.log").stat().st_size
    assert child.log_tail.endswith("the end")


def test_an_analysis_has_no_spec_and_gives_its_description(tmp_path) -> None:
    """The two analysing kinds go through the same child."""
    (tmp_path / "dataset").write_bytes(b"123456")
    of_network = events_until_end(started(lay_out(tmp_path, {}, kind="analyse_model")))
    of_dataset = events_until_end(started(lay_out(tmp_path, {}, kind="analyse_dataset")))

    assert {"num_bytes": len(b"network")} == of_network[-1]["result"]
    assert {"kind": "labelled", "num_samples": 6} == of_dataset[-1]["result"]


def test_a_required_layer_that_is_not_active_refuses_the_attempt(tmp_path) -> None:
    """Fail closed: without the layer, nothing of the upload is touched."""
    problem, _ = last(tmp_path, ("counted", str(tmp_path / "out" / "marker")), required=["network", "moat"])

    assert "sandbox-unavailable" == problem["code"]
    assert "moat: no such layer" in problem["detail"]
    assert not (tmp_path / "out" / "marker").exists()


@pytest.mark.parametrize(
    "text", ["[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory", "std::bad_alloc"]
)
def test_what_allocators_say_is_known_as_lack_of_memory(text) -> None:
    """torch and ONNX Runtime raise RuntimeError when memory ends; texts as torch 2.13 and libstdc++ print them."""
    assert "out-of-memory" == problem_of(RuntimeError(text))["code"]


def test_a_full_disk_may_be_tried_again() -> None:
    """Where a file finds no room, the same attempt may succeed later."""
    problem = problem_of(OSError(errno.ENOSPC, "No space left on device"))

    assert ("storage-full", True) == (problem["code"], problem["retryable"])


def test_actual_and_allowed_values_of_any_type_become_plain_json() -> None:
    """An engine error may carry numpy numbers or tuples; the record is JSON."""
    problem = problem_of(TargetUnreachable("Too small", actual=(1, 2), allowed=0.5))

    assert ("(1, 2)", 0.5) == (problem["actual"], problem["allowed"])


def test_lines_without_a_pipe_go_to_standard_output_and_prints_to_the_error_output(tmp_path) -> None:
    """The command line's local mode reads lines from standard output, whatever libraries print there."""
    lay_out(tmp_path, script(("say", "noise\n")))
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run([*COMMAND, str(tmp_path)], env=environment, capture_output=True, text=True, check=True)

    assert ["sandbox", "result"] == [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert done.stderr.endswith("noise\n")


def test_a_child_stopped_by_a_request_dies_by_it(tmp_path) -> None:
    """A request to end is enough for a healthy child; force is not needed."""
    child = started(lay_out(tmp_path, script(("phase", "score"), ("sleep", 60))))
    while not child.receive(0.1):
        pass
    death = child.kill(grace=5)
    child.close()

    assert signal.SIGTERM.name == death.signal_name


LOCAL = "import sys; import tests.workers.stand_in_engine; from workers import local_job; sys.exit(local_job.main())"


def test_the_same_attempt_runs_without_a_service(tmp_path) -> None:
    """The local mode reads one file that says what to do, writes artifacts to `out`, and leaves nothing else there."""
    network = tmp_path / "net.onnx"
    network.write_bytes(b"network")
    out = tmp_path / "out"
    written = {"spec": script(("phase", "load"), ("step", "score")), "network": str(network), "out": str(out)}
    (tmp_path / "spec.json").write_text(json.dumps(written))
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", LOCAL, str(tmp_path / "spec.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert ["sandbox", "progress", "checkpoint", "result"] == [json.loads(x)["event"] for x in done.stdout.splitlines()]
    assert ["pruned.onnx"] == [path.name for path in out.iterdir()]
    assert "active" == json.loads(done.stdout.splitlines()[0])["layers"]["no_new_privileges"]


def test_the_local_mode_cannot_reach_other_files(tmp_path) -> None:
    """The user's other files are none of the upload's business, on the user's own machine too."""
    (tmp_path / "net.onnx").write_bytes(b"network")
    spec = script(("overwrite", str(tmp_path / "net.onnx")))
    (tmp_path / "spec.json").write_text(
        json.dumps({"spec": spec, "network": str(tmp_path / "net.onnx"), "out": str(tmp_path / "out")})
    )
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", LOCAL, str(tmp_path / "spec.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "active" not in json.loads(done.stdout.splitlines()[0])["layers"]["filesystem"]:
        pytest.skip("this kernel offers no Landlock")

    assert 1 == done.returncode
    assert b"network" == (tmp_path / "net.onnx").read_bytes()
