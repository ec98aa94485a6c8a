"""The runs beneath some folders, as their own files and their sweeps' ledgers tell of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from hydra_plugins.mlens_launcher._ledger import FAILED, STOPPED, WAITING, Job, read_ledger
from mlens.comparison.forms import read_config
from mlens.comparison.runs import is_run, read_run, strategy_label, walk
from mlens.config import flatten
from mlens.engine.manifest import checkpoint_name, read_manifest, saved_steps
from mlens.errors import UserError
from mlens.training.folder import RunFolder, is_at_work

FINISHED, RUNNING, UNFINISHED, BROKEN = "finished", "running", "unfinished", "broken"


@dataclass(frozen=True)
class Sizes:
    """Bytes of a run's checkpoints, its model, and all that it left."""

    checkpoints: int = 0
    model: int = 0
    all: int = 0


@dataclass(frozen=True)
class Listed:
    """A run. state: one of those above, or failed, stopped or waiting, as its sweep's ledger says of a job that neither
    finished nor is at work; note: what is wrong with it; step: the last of a finished run, else of the newest
    checkpoint; val, test: RMSE; minutes: of a finished run, all in all; written: when something was last written, in
    seconds since 1970. None: not known."""

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
    sizes: Sizes = field(default_factory=Sizes)
    written: float = 0.0


def list_runs(folders: Iterable[Path]) -> list[Listed]:
    """The runs in and beneath these folders, and the jobs of sweeps there that have no folder yet. Links aren't
    followed. Raises UserError where a folder isn't there or holds no run."""
    found: dict[Path, Listed] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder")
        here: dict[Path, Listed] = {}
        ledger = cache(_read_ledger)
        for at, found_here in walk(folder):
            if found_here:
                jobs, _ = ledger(at.parent)
                here[at] = _describe(at, jobs.get(at.name))
                continue
            jobs, problem = ledger(at)
            if problem:
                here[at] = Listed(at, BROKEN, problem)
            for name, job in jobs.items():
                if not is_run(at / name):
                    here[at / name] = Listed(at / name, job.state, _last_words(job), fingerprint=job.fingerprint)
        if not here:
            raise UserError(f"{folder} holds no run (a run's folder has .hydra/config.yaml or summary.json)")
        found |= here
    return list(found.values())


def _read_ledger(sweep: Path) -> tuple[dict[str, Job], str]:
    """The jobs of a sweep by name (none where it is no sweep), and what is wrong with its ledger."""
    try:
        return {job.name: job for job in read_ledger(sweep)}, ""
    except UserError as error:
        return {}, str(error)


def _last_words(job: Job) -> str:
    lines = (job.error or "").strip().splitlines()
    return lines[-1] if lines else ""


def _describe(path: Path, job: Job | None) -> Listed:
    folder = RunFolder(path)
    sizes = Sizes(*(_bytes(place) for place in (folder.checkpoints, folder.model, path)))
    traces = (folder.summary, folder.metrics, folder.config)
    written = max((trace.stat().st_mtime for trace in traces if trace.is_file()), default=0.0)
    try:
        if folder.summary.is_file():
            run = read_run(path)
            metrics, training = run.summary["metrics"], run.summary["training"]
            return Listed(
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
        return Listed(path, BROKEN, str(error), sizes=sizes, written=written)
    state, note = UNFINISHED, ""
    if is_at_work(path):
        state = RUNNING
    elif job is not None and job.state in (FAILED, STOPPED, WAITING):
        state, note = job.state, _last_words(job)
    return Listed(
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
    """Of the newest checkpoint whose manifest is whole; its files aren't read."""
    for step in reversed(saved_steps(checkpoints)):
        if read_manifest(checkpoints / checkpoint_name(step))[0] is not None:
            return step
    return None


def _settings(config: dict) -> dict:
    """What tells a run from others, in short."""
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
    """Of all files in a folder; those that links lead to don't count."""
    total = 0
    for path, _, files in os.walk(place):
        for name in files:
            try:
                total += (Path(path) / name).lstat().st_size
            except FileNotFoundError:  # a run at work renames its files
                continue
    return total
