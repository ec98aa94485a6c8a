"""The launcher of sweeps: checks every job, runs those that aren't finished, and writes the report."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

import mlens
from hydra_plugins.mlens_launcher._board import Board
from hydra_plugins.mlens_launcher._ledger import FINISHED, WAITING, CheckedJob, Job, Ledger, names_in
from hydra_plugins.mlens_launcher._local import processes_with, run_local
from hydra_plugins.mlens_launcher._settings import LauncherSettings
from mlens.engine.stop import SIGNALS
from mlens.errors import JobFailed, UserError, exit_with
from mlens.files import refuse_links
from mlens.hydra_private import SOURCE_FLAGS
from mlens.overrides import OTHER_LAUNCHER, quoted
from mlens.text import first_line

# Settings of the sweep, which aren't passed to its jobs.
SWEEP_ONLY = ("output_dir=", "resume=", "hydra.")
# Seconds that the ranks of a killed sweep may take to exit.
LEFTOVER_TIMEOUT = 30.0


class LauncherCheck(Callback):
    """Hydra's callback that ends a sweep with another launcher than MlensLauncher, before any job."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        launcher, option = config.hydra.launcher._target_, config.hydra.runtime.choices["hydra/launcher"]
        if launcher != f"{__name__}.{MlensLauncher.__name__}":
            # Hydra turns exceptions of callbacks into warnings, but not an exit.
            exit_with(UserError(OTHER_LAUNCHER.format(launcher if option == "mlens" else option)))


class MlensLauncher(Launcher):
    """The launcher. Hydra's sweeper calls `setup` once, and `launch` for each batch of jobs."""

    def __init__(self, **settings: Any) -> None:
        try:
            self.settings = LauncherSettings(**settings)
        except TypeError as error:
            raise UserError(f"hydra.launcher: {error}") from error

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the config.

        Raises UserError under torchrun or another launcher, where every rank would run the sweep, and where Hydra's
        settings name the folders differently.
        """
        if "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                "a sweep starts torchrun for each job, and can't run under torchrun itself. Start it as "
                f"`python {Path(sys.argv[0]).name} {' '.join(sys.argv[1:])} "
                f"hydra.launcher.nproc_per_node={os.environ.get('LOCAL_WORLD_SIZE', 'auto')}` "
                "(on several nodes: with hydra.launcher.backend=slurm)"
            )
        _refuse_folder_names(config)
        self.config = config
        self.loader: ConfigLoader = hydra_context.config_loader

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs of this batch that aren't finished yet.

        A job that a sampler proposes again has the result of the first.

        Returns each job's result, in order: the best validation RMSE of a finished job, a JobFailed for another one.
        Raises UserError where a sampler needs the RMSE and there are no validation targets.
        """
        from filelock import FileLock, Timeout

        folder = Path(self.config.hydra.sweep.dir).expanduser().resolve()
        folder.mkdir(parents=True, exist_ok=True)
        batch = [[o for o in overrides if not o.startswith(SWEEP_ONLY)] for overrides in job_overrides]
        checked = self._check_jobs(batch, names_in(folder, batch, initial_job_idx, self._shared_overrides()))
        jobs = [job.entry for job in checked]
        refuse_links(folder / ".sweep.lock", folder / "logs")
        try:
            lock = FileLock(folder / ".sweep.lock").acquire(timeout=0)
        except Timeout as error:
            raise UserError(f"another sweep is running in {folder}. Wait for it, or give another output_dir") from error
        with lock, _signals_as_interrupt():
            ledger = Ledger(folder, jobs)
            todo = list(dict.fromkeys(job.name for job in jobs if not _is_finished(ledger, job)))
            executor, queued = self._queue(ledger, todo)
            todo = [name for name in todo if name not in queued]
            _wait_for_leftovers(folder, todo)
            for job in checked:
                if job.entry.name in todo:
                    _refuse_other_run(folder, job)
            for name in todo:
                ledger.set(name, state=WAITING)
            ledger.write()
            with Board(ledger) as board:
                self._run(ledger, todo, board, executor, queued)
            new = todo or not initial_job_idx  # a sampler may propose finished jobs alone
            if new and any(job.state == FINISHED for job in ledger.jobs.values()):
                self._report(folder)
        return [
            _job_return(ledger, job.name, overrides, self._searches)
            for job, overrides in zip(jobs, job_overrides, strict=True)
        ]

    @property
    def _searches(self) -> bool:
        """Whether the sweeper, such as Optuna's, proposes jobs by the results of earlier ones."""
        return self.config.hydra.runtime.choices["hydra/sweeper"] != "basic"

    def _shared_overrides(self) -> list[str] | None:
        """Return the overrides that are the same in all jobs; None where the only batch shows which these are."""
        hydra = self.config.hydra
        if not self._searches and hydra.sweeper.max_batch_size is None:
            return None
        return cast(list[str], OmegaConf.to_container(hydra.overrides.task, resolve=False))

    def _queue(self, ledger: Ledger, names: list[str]) -> tuple[Any, dict[str, Any]]:
        """Return the executor and those of these jobs that are in its queue; None and no jobs without backend=slurm."""
        if self.settings.backend != "slurm":
            return None, {}
        from hydra_plugins.mlens_launcher._slurm import make_executor, still_queued

        executor = make_executor(self.settings, ledger.folder)
        return executor, still_queued(ledger, names, executor)

    def _run(self, ledger: Ledger, todo: list[str], board: Board, executor: Any, queued: dict[str, Any]) -> None:
        def command(name: str) -> list[str]:
            overrides = ledger.jobs[name].overrides
            if not any(override.startswith("wandb.group=") for override in overrides):
                overrides = [*overrides, f"wandb.group={quoted(ledger.folder.name)}"]
            return [*self._script(), *overrides, _output_dir(ledger.folder, name)]

        if self.settings.backend == "slurm":
            from hydra_plugins.mlens_launcher._slurm import run_queued

            run_queued(ledger, todo, command, self.settings, board, executor, queued)
        else:
            run_local(ledger, todo, command, self.settings, board)

    def _report(self, folder: Path) -> None:
        """Compare the finished jobs. A comparison that isn't possible doesn't fail the sweep."""
        from mlens.comparison.report import print_report, report
        from mlens.comparison.tracking import track
        from mlens.tracking.settings import Wandb, enabled_trackers

        try:
            written = report([folder], folder)
        except UserError as error:
            print(f"no report: {error}", file=sys.stderr, flush=True)
            return
        print_report(written)
        names, wandb = self.config.tracker, Wandb(**self.config.wandb)
        track(written, enabled_trackers(list(names) if OmegaConf.is_list(names) else names, wandb), wandb, folder)

    def _script(self) -> list[str]:
        """Return the script and the command line's options that select its configs."""
        hydra = self.config.hydra
        options = ["--config-name", hydra.job.config_name]
        sources = [source for source in hydra.runtime.config_sources if source.provider in SOURCE_FLAGS]
        options += [f"{SOURCE_FLAGS[source.provider]}={source.path}" for source in sources]
        # Not resolved: `${hydra.job.num}` in an override has no value here.
        given = cast(list[str], OmegaConf.to_container(hydra.overrides.hydra, resolve=False))
        options += [override for override in given if override.startswith("hydra.searchpath=")]
        script = Path(sys.argv[0]).resolve()
        # In an installed mlens the script lies in the package, whose modules would hide others of the same names.
        program = ["-m", "mlens", "train"] if script.parent == Path(mlens.__file__).parent else [str(script)]
        return [*program, *options, "hydra.mode=RUN"]

    def _check_jobs(self, batch: list[list[str]], names: list[str]) -> list[CheckedJob]:
        """Compose and check every job before any is started.

        For each distinct value once: check model and tracker, read the data, and digest the model's files.
        """
        from mlens.config import check_config
        from mlens.data.sources import load_table
        from mlens.identity import identify
        from mlens.preflight import preflight

        hashes: dict[str, str] = {}
        preflighted: set[str] = set()
        jobs = []
        for name, overrides in zip(names, batch, strict=True):
            config = self.loader.load_sweep_config(self.config, overrides)
            with open_dict(config):
                del config["hydra"]
            try:
                settings = check_config(config)
                external = repr((settings.model, settings.prompt, settings.trackers, settings.wandb.mode))
                if external not in preflighted:
                    preflight(settings)
                    preflighted.add(external)
                data = str(settings.config["data"])
                if data not in hashes:
                    hashes[data] = load_table(settings.data).content_hash()
                identity = identify(settings, hashes[data], partial(_pretrained_tokenizer, settings.model))
            except UserError as error:
                raise UserError(f"job {name}: {error}") from error
            entry = Job(name, overrides, identity.fingerprint(settings))
            jobs.append(CheckedJob(entry, settings.config, identity))
        return jobs


def _pretrained_tokenizer(model: Any) -> Any:
    from mlens.model.load import load_pretrained_tokenizer

    return load_pretrained_tokenizer(model)


def _output_dir(folder: Path, name: str) -> str:
    return f"output_dir={quoted(str(folder / name))}"


def _refuse_folder_names(config: DictConfig) -> None:
    """Raise UserError where the sweep's folder can't be resolved, or `hydra.sweep` names its jobs' folders."""
    sweep = cast(dict, OmegaConf.to_container(config.hydra.sweep, resolve=False))
    if sweep["subdir"] != "${hydra.job.num}":
        raise UserError(
            "hydra.sweep.subdir can't be set. Leave it out: output_dir=FOLDER is the sweep's folder, and its jobs' "
            "folders are named by their overrides"
        )
    for key in ("output_dir", "hydra.sweep.dir"):
        try:
            OmegaConf.select(config, key)
        except OmegaConfBaseException as error:
            raise UserError(f"{key}: {first_line(error)}") from error


@contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    """Make SIGTERM, SIGUSR1 and, unless it is ignored (nohup), SIGHUP stop the jobs as Ctrl-C does.

    Further signals are ignored: a closed terminal often sends two, and the jobs are saving.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = [number for number, handler in before.items() if handler != signal.SIG_IGN]

    def interrupt(*_: object) -> None:
        for number in taken:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


def _is_finished(ledger: Ledger, job: Job) -> bool:
    """Whether the job's folder contains its finished run. Raises UserError where it contains another job's."""
    from mlens.schema import read_json

    folder = ledger.folder / job.name
    summary = folder / "summary.json"
    if summary.is_file():
        found = read_json(summary).get("fingerprint")
        if found != job.fingerprint:
            raise UserError(
                f"{folder} contains a run that finished with other settings, data, model or version (fingerprint "
                f"{found}, now {job.fingerprint}). Give another output_dir, or remove the folder to run the job again"
            )
        if ledger.jobs[job.name].state != FINISHED:
            ledger.set(job.name, state=FINISHED)
        return True
    return False


def _refuse_other_run(folder: Path, job: CheckedJob) -> None:
    """Raise UserError where the job's folder contains anything that this job can't continue; nothing is deleted.

    The files of the run decide, not the ledger, which may be lost.
    """
    from mlens.identity import read_identity
    from mlens.saved_config import read_saved_config
    from mlens.training.folder import RunFolder, refuse_other_files
    from mlens.training.resume import refuse_changes

    run = RunFolder(folder / job.entry.name)
    if not run.started:
        refuse_links(run.path)  # of a begun or finished job: it may have been moved to a larger disk
        refuse_other_files(run)
        return
    try:
        refuse_changes(read_saved_config(run.config), job.config)
    except UserError as error:
        raise UserError(f"{run.path} contains an unfinished run with other settings: {error}") from error
    before, now = read_identity(run.path), job.identity
    same = before is not None and (before.data, before.model, before.version) == (now.data, now.model, now.version)
    if not same:
        raise UserError(
            f"{run.path} contains an unfinished run with other data, another model or another version of mlens. "
            "Give another output_dir, or remove the folder to run the job again"
        )


def _wait_for_leftovers(folder: Path, names: list[str]) -> None:
    """Wait until no process of an earlier sweep runs these jobs. Raises UserError after LEFTOVER_TIMEOUT."""
    marks = {_output_dir(folder, name) for name in names}
    deadline = time.monotonic() + LEFTOVER_TIMEOUT
    while True:
        found = [process.pid for process in processes_with(marks)]
        if not found:
            return
        if time.monotonic() > deadline:
            pids = ", ".join(map(str, found))
            raise UserError(f"processes {pids} are still running jobs in {folder}. Stop them first")
        time.sleep(0.5)


def _job_return(ledger: Ledger, name: str, overrides: Sequence[str], needs_rmse: bool) -> JobReturn:
    job = ledger.jobs[name]
    if job.state != FINISHED:
        error = JobFailed(f"job {name} failed (exit code {job.exit_code}): {job.error}")
        return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=error)
    summary: dict = json.loads((ledger.folder / name / "summary.json").read_text(encoding="utf-8"))
    rmse = summary["metrics"].get("val", {}).get("rmse")
    if rmse is None and needs_rmse:
        raise UserError(
            f"job {name} has no validation targets, by whose RMSE the sweeper chooses the next jobs: choose another "
            "split, or more users"
        )
    return JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=rmse)
