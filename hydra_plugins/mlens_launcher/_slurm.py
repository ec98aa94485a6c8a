"""Jobs in a SLURM queue, through submitit: one task a node, each of which runs torchrun there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra_plugins.mlens_launcher import _agent
from hydra_plugins.mlens_launcher._ledger import RUNNING, STOPPED, Ledger
from hydra_plugins.mlens_launcher._local import clean_environment, log_file, note_end, resuming, was_stopped
from hydra_plugins.mlens_launcher._settings import LauncherSettings
from mlens.errors import UserError
from mlens.files import ensure_folder, open_append, refuse_links

POLL = 1.0


@dataclass
class NodeTask:
    """What each node of a job runs (pickled by submitit): torchrun with its part of the ranks. Returns the exit code.

    run: the job's folder; log: the first node's output goes there, the others' to files beside it; process: torchrun,
    once it runs.
    """

    command: list[str]
    nnodes: int
    nproc_per_node: int | str
    run: Path
    log: Path
    process: subprocess.Popen | None = None

    def __call__(self) -> int:
        import submitit

        node = submitit.JobEnvironment()
        log = self.log if node.global_rank == 0 else self.log.with_suffix(f".node{node.global_rank}.log")
        arguments = torchrun_arguments(self.nnodes, self._ranks(), node.hostnames[0], str(node.job_id))
        with open_append(log) as output:
            self.process = subprocess.Popen(
                [sys.executable, _agent.__file__, *arguments, *self.command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=clean_environment(os.environ),
            )
        # submitit takes SIGTERM and its own warning; these two would kill this process, and its end the ranks.
        for number in (signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, self._stop)
        return self.process.wait()

    def _stop(self, *_: object) -> None:
        """Have the ranks save and end."""
        if self.process is not None:
            self.process.send_signal(signal.SIGUSR1)

    def checkpoint(self) -> Any:
        """submitit calls this on the first node when the queue is about to end the job: the ranks (of all nodes, since
        they agree) save and end, and the job that is put into the queue again goes on."""
        import submitit

        self._stop()
        if self.process is not None:
            with suppress(ChildProcessError):
                # Not Popen.wait, in the midst of which this is called.
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(replace(self, command=resuming(self.command, self.run), process=None))

    def _ranks(self) -> int:
        if self.nproc_per_node != "auto":
            return int(self.nproc_per_node)
        import torch

        return max(1, torch.cuda.device_count())


def torchrun_arguments(nnodes: int, ranks: int, first_host: str, job_id: str) -> list[str]:
    """On several nodes they meet at the first one, on a port that follows from the job's number.

    >>> torchrun_arguments(2, 8, "node1", "123_4")
    ['--nnodes=2', '--nproc_per_node=8', '--rdzv_backend=c10d', '--rdzv_id=123_4', '--rdzv_endpoint=node1:21234']
    """
    if nnodes == 1:
        return ["--standalone", f"--nproc_per_node={ranks}"]
    port = 20000 + int("".join(filter(str.isdigit, job_id)) or 0) % 20000
    return [
        f"--nnodes={nnodes}",
        f"--nproc_per_node={ranks}",
        "--rdzv_backend=c10d",
        f"--rdzv_id={job_id}",
        f"--rdzv_endpoint={first_host}:{port}",
    ]


def make_executor(settings: LauncherSettings, folder: Path, cluster: str = "slurm") -> Any:
    """submitit's executor with the queue's parameters. Raises UserError where submitit isn't installed, there is no
    SLURM here, or a parameter isn't known."""
    try:
        import submitit
    except ImportError as error:
        raise UserError("hydra.launcher.backend=slurm needs submitit: pip install -e '.[slurm]'") from error
    try:
        refuse_links(folder / "logs", folder / "logs" / "queue")
        executor = submitit.AutoExecutor(folder=folder / "logs" / "queue", cluster=cluster)
        executor.update_parameters(name="mlens", nodes=settings.nnodes, tasks_per_node=1, **(settings.slurm or {}))
    except (RuntimeError, NameError, ValueError, TypeError) as error:
        raise UserError(f"hydra.launcher.slurm: {' '.join(str(error).split())}") from error
    return executor


def still_queued(ledger: Ledger, names: list[str], executor: Any) -> dict[str, Any]:
    """Of these jobs, those that an earlier sweep left in the queue, waiting or at work."""
    import submitit

    found = {}
    for name in names:
        job = ledger.jobs[name]
        if job.state == RUNNING and job.queue_id is not None:
            queued: Any = submitit.SlurmJob(folder=executor.folder, job_id=job.queue_id)
            if not queued.done():
                found[name] = queued
    return found


def run_queued(
    ledger: Ledger,
    names: list[str],
    command: Callable[[str], list[str]],
    settings: LauncherSettings,
    watch: Callable[[], None],
    executor: Any,
    queued: dict[str, Any],
) -> None:
    """Submit these jobs, `max_parallel` at once beside those `queued` already, and note in the ledger how each ends.

    Ctrl-C cancels what is queued, notes it as stopped, and is raised again.
    """
    waiting: list[str] = list(names)
    at_work: dict[str, Any] = dict(queued)
    since = dict.fromkeys(at_work, time.monotonic())
    try:
        while waiting or at_work:
            while waiting and len(at_work) < settings.max_parallel:
                name = waiting.pop(0)
                log = log_file(ledger.folder, name)
                ensure_folder(log.parent)
                open_append(log).close()
                run = ledger.folder / name
                own = resuming(command(name), run)
                task = NodeTask(own, settings.nnodes, settings.nproc_per_node, run, log)
                at_work[name], since[name] = executor.submit(task), time.monotonic()
                ledger.set(name, state=RUNNING, exit_code=None, seconds=None, error=None, queue_id=at_work[name].job_id)
            time.sleep(POLL)
            for name, job in list(at_work.items()):
                if job.done():
                    del at_work[name]
                    code = _exit_code(job)
                    if was_stopped(code):
                        waiting.append(name)
                    note_end(ledger, name, code, time.monotonic() - since[name])
            watch()
    except BaseException:
        for name, job in at_work.items():
            job.cancel()
            ledger.set(name, state=STOPPED)
        raise


def _exit_code(job: Any) -> int:
    """The first node's exit code; 1 where the queue ended the job."""
    return 1 if job.exception() is not None else int(job.result())
