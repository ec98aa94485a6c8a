"""The local backend: jobs on this machine, each under a separate torchrun, several at once."""

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
from mlens.errors import EXIT_RESUMABLE
from mlens.files import disk_refusal, ensure_folder, in_words, open_append

# The last line of a traceback, also of a rank under torchrun; the traceback of torchrun follows it.
EXCEPTION_LINE = re.compile(r"(?:\[rank\d+\]: ?)?((?:[a-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit)(?:: .*)?)$")
# Variables of a process group around the sweep, which its jobs must not inherit.
PROCESS_GROUP_PREFIXES = ("LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")
# Seconds that jobs may take to save after a request to stop.
STOP_TIMEOUT = 60.0
POLL_SECONDS = 0.2


@dataclass
class RunningJob:
    """A running job.

    process: its agent.
    mark: an argument that only this job's ranks have.
    share: its share of the machine.
    start_time: by time.monotonic().
    """

    process: subprocess.Popen
    mark: str
    share: Share
    start_time: float


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the variables of another process group.

    >>> clean_environment({"RANK": "1", "MASTER_PORT": "2", "HOME": "/h"})
    {'HOME': '/h'}
    """
    return {
        name: value
        for name, value in environment.items()
        if name not in ("RANK", "WORLD_SIZE") and not name.startswith(PROCESS_GROUP_PREFIXES)
    }


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
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
    """Run these jobs, `max_parallel` at once, and record in the ledger how each ends. A failed job doesn't stop others.

    ledger: of the sweep.
    names: the jobs to run.
    command: returns the arguments after `torchrun --nproc_per_node=N` for a job's name; the last one must be unique to
        the job.
    settings: of the launcher.
    watch: called several times a second.

    A job that a signal stopped is resumed after all others have started. Ctrl-C ends all jobs with all their ranks,
    records them as stopped, and is raised again.
    """
    free_shares = divide(settings, visible_gpus(), len(os.sched_getaffinity(0)))
    waiting, running = list(names), dict[str, RunningJob]()
    try:
        while waiting or running:
            while waiting and free_shares:
                name, share = waiting.pop(0), free_shares.pop(0)
                running[name] = _start(ledger, name, resuming(command(name), ledger.folder / name), share)
                ledger.set(name, state=RUNNING, exit_code=None, seconds=None, error=None)
            time.sleep(POLL_SECONDS)
            for name, started in list(running.items()):
                code = started.process.poll()
                if code is not None:
                    end_processes(started.mark)  # ranks whose agent was killed
                    free_shares.append(running.pop(name).share)
                    if was_stopped(code):
                        waiting.append(name)
                    record_end(ledger, name, code, time.monotonic() - started.start_time)
            watch()
    except BaseException:
        _stop(list(running.values()))
        for name, started in running.items():
            ledger.set(name, state=STOPPED, seconds=time.monotonic() - started.start_time)
        raise


def record_end(ledger: Ledger, name: str, code: int, seconds: float) -> None:
    """Record how a job ended. It is finished if its summary exists, even if it was killed after writing it."""
    done = code == 0 or (ledger.folder / name / "summary.json").is_file()
    state = FINISHED if done else STOPPED if was_stopped(code) else FAILED
    error = last_lines(log_file(ledger.folder, name)) if state == FAILED else None
    ledger.set(name, state=state, exit_code=code, seconds=seconds, error=error)


def was_stopped(code: int) -> bool:
    """Whether a job's exit code means that a signal stopped it, in its ranks or before they started."""
    return code == EXIT_RESUMABLE or -code in SIGNALS


def log_file(folder: Path, name: str) -> Path:
    return folder / "logs" / f"{name}.log"


def resuming(command: list[str], run: Path) -> list[str]:
    """Return the command, with `resume=true` if the run has begun already; its last argument stays last."""
    from mlens.training.folder import RunFolder

    begun = RunFolder(run).started and "resume=true" not in command
    return [*command[:-1], "resume=true", command[-1]] if begun else command


def last_lines(log: Path) -> str:
    """Return why a job failed, from its log: its last `error:` line, else its exception, else its last lines.

    A failure of torchrun itself because of too many open files is explained.
    """
    lines = [line.rstrip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1]
    last = "\n".join(lines[-5:])
    refusal = disk_refusal(RuntimeError(last))
    if refusal is not None:
        return in_words(refusal)
    raised = [found[1] for line in lines if (found := EXCEPTION_LINE.match(line)) and "ChildFailedError" not in line]
    return f"{raised[-1]} (traceback: {log})" if raised else last or "no output"


def _start(ledger: Ledger, name: str, command: list[str], share: Share) -> RunningJob:
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
    return RunningJob(process, command[-1], share, time.monotonic())


def _stop(jobs: list[RunningJob]) -> None:
    """Request all jobs to save and exit; kill those left after STOP_TIMEOUT, or at once on a second Ctrl-C."""
    for job in jobs:
        job.process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + STOP_TIMEOUT
    with suppress(KeyboardInterrupt):
        while time.monotonic() < deadline and any(job.process.poll() is None for job in jobs):
            time.sleep(POLL_SECONDS)
    for job in jobs:
        job.process.kill()
        end_processes(job.mark)
        job.process.wait()


def end_processes(mark: str) -> None:
    """Kill every process that has this argument.

    torchrun starts its ranks in new sessions, and a rank whose agent was killed is an orphan: only its command line
    identifies its job.
    """
    for process in processes_with({mark}):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def processes_with(marks: set[str]) -> list[psutil.Process]:
    """Return the processes that have one of these arguments, except this one."""
    found = psutil.process_iter(["cmdline"])
    return [p for p in found if marks & set(p.info["cmdline"] or ()) and p.pid != os.getpid()]
