"""Finished runs as their folders tell of them: nothing of the program that made them is needed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from mlens.comparison.forms import (
    PLAN,
    PROMPTS,
    RECORD,
    SUMMARY,
    VALIDATION,
    parse_json,
    read_config,
    read_json,
    read_predictions,
    require,
)
from mlens.config import flatten, is_below
from mlens.errors import UserError
from mlens.identity import NOT_RESULT
from mlens.text import one_line

# What two runs of one arm may differ in.
SEED = "seed"
# What a strategy's name is followed by, where its config has it.
PARAMETERS = ("ratio", "count")


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, summary.json, and its config, nested and resolved."""

    folder: Path
    summary: dict
    config: dict

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def seed(self) -> int:
        return self.config[SEED]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The config's dotted keys that a result depends on, without the seed; and what else the run is known by:
        its data, its model and mlens' version."""
        flat = flatten(self.config)
        settings = {key: value for key, value in flat.items() if key != SEED and not is_below(key, NOT_RESULT)}
        # Runs of versions that noted no identity are told apart by where their model was.
        identity = self.summary.get("identity", {"data": None, "model": flat.get("model.path")})
        settings |= {name: identity[name] for name in ("data", "model")}
        return settings | {"version": self.summary["versions"].get("mlens")}

    def shown(self, key: str) -> str:
        """A setting as a reader knows it: a model by its folder's or its hub's name, not by its digest alone."""
        value = self.settings.get(key)
        if key == "model" and value is not None:
            model = self.config["model"]
            name = Path(model["path"]).name if model.get("path") else model.get("name")
            return f"{name} ({str(value)[:6]})"
        return str(value)[:6] if key == "data" and value is not None else str(value)

    def predictions(self, stage: str, columns: tuple[str, ...] | None = None) -> list[pl.DataFrame]:
        """For each draw of histories one row a target, as the run wrote them (these columns only). Raises UserError
        where they are missing."""
        return read_predictions(self.folder / "predictions" / f"{stage}.parquet", columns)

    @cached_property
    def records(self) -> list[dict]:
        """The lines of metrics.jsonl (none where it was removed). Raises UserError where one is no record."""
        file = self.folder / "training_logs" / "metrics.jsonl"
        if not file.is_file():
            return []
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file} can't be read: {error}") from error
        records = [parse_json(line, RECORD, f"{file}:{number}") for number, line in enumerate(lines, 1)]
        for number, record in enumerate(records, 1):
            if record["kind"] == "val":
                require(record, VALIDATION, f"{file}:{number}")
        return records

    @cached_property
    def plan(self) -> dict:
        return read_json(self.folder / "plan.json", PLAN)

    @cached_property
    def prompts(self) -> list[dict]:
        """The prompts that the run kept of its test targets (none where the file was removed). Raises UserError where
        they are none."""
        file = self.folder / "predictions" / "prompts.json"
        return read_json(file, PROMPTS) if file.is_file() else []


def read_run(folder: Path) -> Run:
    """Raises UserError where `folder` holds no finished run, or its summary or config isn't what a run leaves."""
    if not is_finished(folder):
        raise UserError(f"{folder} holds no finished run: summary.json is missing")
    config = folder / ".hydra" / "config.yaml"
    if not config.is_file():
        raise UserError(f"{folder} holds no run's config: .hydra/config.yaml is missing")
    return Run(folder, read_json(folder / "summary.json", SUMMARY), read_config(config))


def is_run(folder: Path) -> bool:
    """Whether a run, finished or not, has this folder."""
    return (folder / ".hydra" / "config.yaml").is_file() or is_finished(folder)


def is_finished(folder: Path) -> bool:
    return (folder / "summary.json").is_file()


def walk(folder: Path) -> Iterator[tuple[Path, bool]]:
    """`folder` and all folders in it at any depth, each with whether it is a run's; what lies in a run's folder is left
    out. By name; links aren't followed."""
    for path, names, _ in os.walk(folder):
        at = Path(path)
        found = is_run(at)
        if found:
            names.clear()
        names.sort()
        yield at, found


def find_runs(folders: Iterable[Path]) -> list[Run]:
    """The finished runs in and beneath these folders, each once.

    Raises UserError where one of `folders` isn't there or holds no finished run, or the files of one can't be read.
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder")
        runs = [path for path, holds_run in walk(folder) if holds_run]
        finished = [path for path in runs if is_finished(path)]
        if not finished:
            others = f" but {len(runs):,} unfinished" if runs else ""
            raise UserError(f"{folder} holds no finished run{others} (a run has finished when its summary.json exists)")
        found |= {path: read_run(path) for path in finished}
    return list(found.values())


def find_unfinished(folders: Iterable[Path]) -> list[Path]:
    """The folders of the runs in and beneath these folders that have not finished, each once."""
    found = (path for folder in folders for path, holds_run in walk(folder) if holds_run and not is_finished(path))
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Arm:
    """Runs that differ in nothing but their seeds, under a label that tells them from other arms."""

    label: str
    runs: tuple[Run, ...]

    def mean(self, *keys: str) -> float | None:
        """The mean over runs of a figure of their summaries; None where one of them has none."""
        values = []
        for run in self.runs:
            value: Any = run.summary
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            if value is None:
                return None
            values.append(float(value))
        return sum(values) / len(values)


def make_arms(runs: Sequence[Run]) -> list[Arm]:
    """The arms of these runs, in the order of their first runs. Raises UserError where two runs are the same one."""
    arms: dict[str, list[Run]] = {}
    for run in runs:
        arms.setdefault(json.dumps(run.settings, sort_keys=True, default=repr), []).append(run)
    for members in arms.values():
        seeds = [run.seed for run in members]
        for i, run in enumerate(members):
            if run.seed in seeds[:i]:
                other = members[seeds.index(run.seed)]
                raise UserError(
                    f"{run.folder} and {other.folder} are one run (same settings and seed): give one of them"
                )
    labels = _labels([members[0] for members in arms.values()])
    return [Arm(label, tuple(members)) for label, members in zip(labels, arms.values(), strict=True)]


def strategy_label(history: dict) -> str:
    """A strategy's name and its main parameter, from its config node.

    >>> strategy_label({"_target_": "mlens.history.fixed_count.FixedCount", "count": 10})
    'fixed_count 10'
    """
    strategy = str(history.get("_target_", "")).split(".")[-2:][0]
    return " ".join([strategy, *(str(history[name]) for name in PARAMETERS if name in history)])


def _labels(runs: Sequence[Run]) -> list[str]:
    """A label for each: its strategy, and what else it differs in from those that have that too."""
    told = {f"history.{name}" for name in ("_target_", *PARAMETERS)}
    differing = []
    for key in differing_keys(runs):
        values = {str(run.settings[key]) for run in runs if key in run.settings}
        if len(values) > 1 and key not in told:
            differing.append(key)
    labels = [
        " ".join(
            [strategy_label(run.config["history"])]
            + [f"{key}={run.shown(key)}" for key in differing if key in run.settings]
        )
        for run in runs
    ]
    return [one_line(label) for label in labels]


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """The settings in which these runs differ, the seed aside."""
    keys = sorted({key for run in runs for key in run.settings})
    return [key for key in keys if len({json.dumps(run.settings.get(key), default=repr) for run in runs}) > 1]
