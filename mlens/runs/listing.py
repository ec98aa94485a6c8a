"""The runs beneath some folders, described by their files and by the ledgers of their sweeps."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from hydra_plugins.mlens_launcher._ledger import FAILED, STOPPED, WAITING, Job, read_ledger
from mlens.comparison.finished_runs import is_run, read_run, strategy_label, walk_runs
from mlens.comparison.run_files import read_config
from mlens.config import flatten
from mlens.engine.manifest import checkpoint_name, read_manifest, saved_steps
from mlens.errors import UserError
from mlens.training.folder import RunFolder, is_locked

FINISHED, RUNNING, UNFINISHED, BROKEN = "finished", "running", "unfinished", "broken"


@dataclass(frozen=True)
class RunSizes:
    """Bytes of a run's checkpoints, of its model, and of all its files."""

    checkpoints: int = 0
    model: int = 0
    all: int = 0


@dataclass(frozen=True)
class ListedRun:
    """A run in the list; None means unknown.

    folder: its folder.
    state: one of the states above; or failed, stopped or waiting, according to the ledger, for a job that is neither
        finished nor running.
    note: what is wrong with it.
    history: label of its strategy.
    data: name of its data.
    model: name of its model.
    seed: its seed.
    step: last step of a finished run, otherwise step of the newest checkpoint.
    val, test: RMSE.
    minutes: total time of a finished run.
    fingerprint: fingerprint of the run or job.
    sizes: sizes of its files.
    written: time of the last write, in seconds since 1970.
    """

    folder: Path
    state: str
    note: str = ""
    history: str = ""
    data: str = ""
    model: str = ""
    seed: int | None = None
    step: int | None = None
    val: float | None = None
    test: float | None = None
    minutes: float | None = None
    fingerprint: str = ""
    sizes: RunSizes = field(default_factory=RunSizes)
    written: float = 0.0


def list_runs(folders: Iterable[Path]) -> list[ListedRun]:
    """List the runs in and beneath these folders, and jobs of sweeps that have no folder yet. Links aren't followed.

    Raises UserError if a folder doesn't exist or holds no run.
    """
    found: dict[Path, ListedRun] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no such folder: {folder}. Give the folder of a run or of a sweep, or one that holds runs")
        here: dict[Path, ListedRun] = {}
        ledger = cache(_read_ledger)
        for at, found_here in walk_runs(folder):
            if found_here:
                jobs, _ = ledger(at.parent)
                here[at] = _describe(at, jobs.get(at.name))
                continue
            jobs, problem = ledger(at)
            if problem:
                here[at] = ListedRun(at, BROKEN, problem)
            for name, job in jobs.items():
                if not is_run(at / name):
                    here[at / name] = ListedRun(at / name, job.state, _last_line(job), fingerprint=job.fingerprint)
        if not here:
            raise UserError(f"no run: {folder}. The folder of a run has .hydra/config.yaml or summary.json")
        found |= here
    return list(found.values())


def _read_ledger(sweep: Path) -> tuple[dict[str, Job], str]:
    """Return the jobs of a sweep by name (none if the folder isn't a sweep's), and what is wrong with its ledger."""
    try:
        return {job.name: job for job in read_ledger(sweep)}, ""
    except UserError as error:
        return {}, str(error)


def _last_line(job: Job) -> str:
    """Return the last line of a job's error."""
    lines = (job.error or "").strip().splitlines()
    return lines[-1] if lines else ""


def _describe(path: Path, job: Job | None) -> ListedRun:
    """Describe the run in a folder, given its job in a sweep."""
    folder = RunFolder(path)
    sizes = RunSizes(*(_bytes(place) for place in (folder.checkpoints, folder.model, path)))
    traces = (folder.summary, folder.metrics, folder.config)
    written = max((trace.stat().st_mtime for trace in traces if trace.is_file()), default=0.0)
    try:
        if folder.summary.is_file():
            run = read_run(path)
            metrics, training = run.summary["metrics"], run.summary["training"]
            return ListedRun(
                folder=path,
                state=FINISHED,
                **_settings(run.config),
                step=training.get("step"),
                val=metrics.get("val", {}).get("rmse"),
                test=metrics["test"]["rmse"],
                minutes=sum(seconds or 0.0 for seconds in run.summary["seconds"].values()) / 60,
                fingerprint=run.summary["fingerprint"],
                sizes=sizes,
                written=written,
            )
        settings = _settings(read_config(folder.config))
    except UserError as error:
        return ListedRun(path, BROKEN, str(error), sizes=sizes, written=written)
    state, note = UNFINISHED, ""
    if is_locked(path):
        state = RUNNING
    elif job is not None and job.state in (FAILED, STOPPED, WAITING):
        state, note = job.state, _last_line(job)
    return ListedRun(
        folder=path,
        state=state,
        note=note,
        **settings,
        step=_newest_step(folder.checkpoints),
        fingerprint="" if job is None else job.fingerprint,
        sizes=sizes,
        written=written,
    )


def _newest_step(checkpoints: Path) -> int | None:
    """Return the step of the newest checkpoint with a valid manifest; its other files aren't read."""
    for step in reversed(saved_steps(checkpoints)):
        if read_manifest(checkpoints / checkpoint_name(step))[0] is not None:
            return step
    return None


def _settings(config: dict) -> dict:
    """Return the settings that distinguish a run from others, in short."""
    flat = flatten(config)
    named = flat.get("model.path") or flat.get("model.name")
    source = str(flat.get("data._target_", "")).split(".")[-2:][0]
    return {
        "history": strategy_label(config["history"]),
        "data": str(flat.get("data.release") or source),
        "model": Path(str(named)).name if named else f"tiny {flat.get('model.hidden_size', '')}".strip(),
        "seed": config["seed"],
    }


def _bytes(place: Path) -> int:
    """Return the size of all files in a folder, without following links."""
    total = 0
    for path, _, files in os.walk(place):
        for name in files:
            try:
                total += (Path(path) / name).lstat().st_size
            except FileNotFoundError:  # a running run renames its files
                continue
    return total
