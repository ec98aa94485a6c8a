"""Jobs on this machine: each a torchrun of its own, some at once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from hydra_plugins.mlens_launcher import _agent
from hydra_plugins.mlens_launcher._ledger import FAILED, FINISHED, RUNNING, STOPPED, Ledger
from hydra_plugins.mlens_launcher._settings import LauncherSettings, Share, divide
from mlens.engine.stop import SIGNALS
from mlens.errors import CONTINUE
from mlens.files import disk_refusal, ensure_folder, in_words, open_append

# How a traceback ends, of a rank under torchrun too; torchrun's own follows it.
RAISED = re.compile(r"(?:\[rank\d+\]: ?)?((?:[a-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit)(?:: .*)?)$")
# What a process group around the sweep would tell its jobs.
FOREIGN = ("LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")
# How long jobs that are asked to end may take to save.
LEAVE = 60.0
POLL = 0.2


@dataclass
class Started:
    """A job that runs: its process, the argument that tells its ranks from all others, the share of the machine that it
    has, and since when."""

    process: subprocess.Popen
    mark: str
    share: Share
    since: float


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without another process group's variables.

    >>> clean_environment({"RANK": "1", "MASTER_PORT": "2", "HOME": "/h"})
    {'HOME': '/h'}
    """
    return {
        name: value
        for name, value in environment.items()
        if name not in ("RANK", "WORLD_SIZE") and not name.startswith(FOREIGN)
    }


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    count = torch.cuda.device_count()
    return named[:count] if named else [str(i) for i in range(count)]


def job_environment(share: Share) -> dict[str, str]:
    environment = clean_environment(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(share.threads))
    if share.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(share.gpus)
    return environment


def run_local(
    ledger: Ledger,
    names: list[str],
    command: Callable[[str], list[str]],
    settings: LauncherSettings,
    watch: Callable[[], None],
) -> None:
    """Run these jobs, `max_parallel` at once, and note in the ledger how each ends; a failed one stops no other.

    command: what follows `torchrun --nproc_per_node=N` for a job of that name; its last argument is no other job's.
    `watch` is called some times a second. A job that a signal stopped goes on when the others have had their turn.
    Ctrl-C ends all jobs with all their ranks, notes them as stopped, and is raised again.
    """
    free = divide(settings, visible_gpus(), len(os.sched_getaffinity(0)))
    waiting, running = list(names), dict[str, Started]()
    try:
        while waiting or running:
            while waiting and free:
                name, share = waiting.pop(0), free.pop(0)
                running[name] = _start(ledger, name, resuming(command(name), ledger.folder / name), share)
                ledger.set(name, state=RUNNING, exit_code=None, seconds=None, error=None)
            time.sleep(POLL)
            for name, started in list(running.items()):
                code = started.process.poll()
                if code is not None:
                    end_processes(started.mark)  # ranks whose agent was killed
                    free.append(running.pop(name).share)
                    if was_stopped(code):
                        waiting.append(name)
                    note_end(ledger, name, code, time.monotonic() - started.since)
            watch()
    except BaseException:
        _stop(list(running.values()))
        for name, started in running.items():
            ledger.set(name, state=STOPPED, seconds=time.monotonic() - started.since)
        raise


def note_end(ledger: Ledger, name: str, code: int, seconds: float) -> None:
    """A job has finished when its summary exists: one that was killed after it wrote it has done all."""
    done = code == 0 or (ledger.folder / name / "summary.json").is_file()
    state = FINISHED if done else STOPPED if was_stopped(code) else FAILED
    error = last_lines(log_file(ledger.folder, name)) if state == FAILED else None
    ledger.set(name, state=state, exit_code=code, seconds=seconds, error=error)


def was_stopped(code: int) -> bool:
    """Whether a job's exit code says that a signal stopped it: in its ranks, or before there were any."""
    return code == CONTINUE or -code in SIGNALS


def log_file(folder: Path, name: str) -> Path:
    return folder / "logs" / f"{name}.log"


def resuming(command: list[str], run: Path) -> list[str]:
    """The command, with `resume=true` where the run has begun already; its last argument stays the last."""
    from mlens.training.folder import RunFolder

    begun = RunFolder(run).begun and "resume=true" not in command
    return [*command[:-1], "resume=true", command[-1]] if begun else command


def last_lines(log: Path) -> str:
    """What a failed job said last: its last `error:` line where there is one, else the exception that its traceback
    ends with, else its last lines, if any; that torchrun itself had too many open files is put into words."""
    lines = [line.rstrip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("error: ")]
    if told:
        return told[-1]
    last = "\n".join(lines[-5:])
    crowded = disk_refusal(RuntimeError(last))
    if crowded is not None:
        return in_words(crowded)
    raised = [found[1] for line in lines if (found := RAISED.match(line)) and "ChildFailedError" not in line]
    return f"{raised[-1]} (traceback: {log})" if raised else last or "it said nothing"


def _start(ledger: Ledger, name: str, command: list[str], share: Share) -> Started:
    log = log_file(ledger.folder, name)
    ensure_folder(log.parent)
    with open_append(log) as output:  # a resumed job appends
        process = subprocess.Popen(
            [sys.executable, _agent.__file__, "--standalone", f"--nproc_per_node={share.ranks}", *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=job_environment(share),
            start_new_session=True,
        )
    return Started(process, command[-1], share, time.monotonic())


def _stop(jobs: list[Started]) -> None:
    """Ask all to save and end, and kill what is left after a while, or at once with a second Ctrl-C."""
    for job in jobs:
        job.process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + LEAVE
    with suppress(KeyboardInterrupt):
        while time.monotonic() < deadline and any(job.process.poll() is None for job in jobs):
            time.sleep(POLL)
    for job in jobs:
        job.process.kill()
        end_processes(job.mark)
        job.process.wait()


def end_processes(mark: str) -> None:
    """Kill every process with this argument. torchrun gives its ranks sessions of their own, and a rank whose agent was
    killed is nobody's child: its command line alone tells whose it was."""
    for process in processes_with({mark}):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def processes_with(marks: set[str]) -> list[psutil.Process]:
    """The processes that have one of these arguments, but for this one."""
    found = psutil.process_iter(["cmdline"])
    return [p for p in found if marks & set(p.info["cmdline"] or ()) and p.pid != os.getpid()]
