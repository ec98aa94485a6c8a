"""The slurm backend: jobs in a SLURM queue, through submitit. A job has one task per node, which runs torchrun."""

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
from hydra_plugins.mlens_launcher._local import clean_environment, log_file, record_end, resuming, was_stopped
from hydra_plugins.mlens_launcher._settings import LauncherSettings
from mlens.errors import UserError
from mlens.files import ensure_folder, open_append, refuse_links

POLL_SECONDS = 1.0


@dataclass
class NodeTask:
    """The task of each node of a job (pickled by submitit): runs torchrun with the node's ranks, returns the exit code.

    command: the arguments after those of torchrun.
    nnodes: nodes of the job.
    nproc_per_node: ranks on each node.
    run: the job's folder.
    log: file for the first node's output; the other nodes' files have names derived from it.
    process: torchrun, once started.
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
        # submitit handles SIGTERM and its warning signal; these two would kill this process, and with it the ranks.
        for number in (signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, self._stop)
        return self.process.wait()

    def _stop(self, *_: object) -> None:
        """Request the ranks to save and exit."""
        if self.process is not None:
            self.process.send_signal(signal.SIGUSR1)

    def checkpoint(self) -> Any:
        """Save before the queue ends the job, and return the task to requeue, which resumes it.

        submitit calls this on the first node; the ranks of all nodes save and exit, since they agree on stopping.
        """
        import submitit

        self._stop()
        if self.process is not None:
            with suppress(ChildProcessError):
                # Not Popen.wait, which this call interrupts.
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(replace(self, command=resuming(self.command, self.run), process=None))

    def _ranks(self) -> int:
        if self.nproc_per_node != "auto":
            return int(self.nproc_per_node)
        import torch

        return max(1, torch.cuda.device_count())


def torchrun_arguments(nnodes: int, ranks: int, first_host: str, job_id: str) -> list[str]:
    """Return torchrun's arguments. Several nodes rendezvous at the first one, on a port derived from the job's id.

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
    """Return submitit's executor with the queue's parameters.

    Raises UserError where submitit isn't installed, SLURM isn't available, or a parameter is unknown.
    """
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
    """Return those of these jobs that an earlier sweep left in the queue, pending or running."""
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
    """Submit these jobs, and record in the ledger how each ends.

    ledger: of the sweep.
    names: the jobs to submit.
    command: returns the arguments after those of torchrun for a job's name.
    settings: of the launcher; `max_parallel` counts the jobs in `queued` too.
    watch: called about once a second.
    executor: of submitit.
    queued: jobs that are in the queue already, by name.

    Ctrl-C cancels the queued jobs, records them as stopped, and is raised again.
    """
    waiting: list[str] = list(names)
    running: dict[str, Any] = dict(queued)
    start_times = dict.fromkeys(running, time.monotonic())
    try:
        while waiting or running:
            while waiting and len(running) < settings.max_parallel:
                name = waiting.pop(0)
                log = log_file(ledger.folder, name)
                ensure_folder(log.parent)
                open_append(log).close()
                run = ledger.folder / name
                job_command = resuming(command(name), run)
                task = NodeTask(job_command, settings.nnodes, settings.nproc_per_node, run, log)
                running[name], start_times[name] = executor.submit(task), time.monotonic()
                ledger.set(name, state=RUNNING, exit_code=None, seconds=None, error=None, queue_id=running[name].job_id)
            time.sleep(POLL_SECONDS)
            for name, job in list(running.items()):
                if job.done():
                    del running[name]
                    code = _exit_code(job)
                    if was_stopped(code):
                        waiting.append(name)
                    record_end(ledger, name, code, time.monotonic() - start_times[name])
            watch()
    except BaseException:
        for name, job in running.items():
            job.cancel()
            ledger.set(name, state=STOPPED)
        raise


def _exit_code(job: Any) -> int:
    """Return the first node's exit code; 1 where the queue ended the job."""
    return 1 if job.exception() is not None else int(job.result())
