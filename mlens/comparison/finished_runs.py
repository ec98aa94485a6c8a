"""Finished runs, read from their folders alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl

from mlens.comparison.run_files import PLAN, PROMPTS, RECORD, SUMMARY, VALIDATION, read_config, read_predictions
from mlens.config import flatten, is_below
from mlens.errors import UserError
from mlens.identity import NOT_RESULT
from mlens.schema import parse_json, read_json, require
from mlens.text import one_line

# The keys in which the runs of an arm may differ: the base model's seed may if it is always the run's.
SEED, BASE_SEED = "seed", "model.base.seed"
# Parameters of a strategy that follow its name in a label.
PARAMETERS = ("ratio", "count")
# Settings in a label, apart from those of the history: more only where arms would have the same label. Of several that
# distinguish as many arms, the main ones are taken.
LABEL_SETTINGS = 3
MAIN_SETTINGS = ("model", "trainer.loss", "trainer.optimizer", "trainer.learning_rate")


@dataclass(frozen=True)
class Run:
    """A finished run.

    folder: its folder.
    summary: content of summary.json.
    config: its config, nested and resolved.
    base_follows: whether in all runs to compare the base model's seed is the run's, and so no setting of its own.
    """

    folder: Path
    summary: dict
    config: dict
    base_follows: bool = False

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def seed(self) -> int:
        return self.config[SEED]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that a result depends on, except for the seed: dotted keys of the config, digests of data and
        model, and mlens' version."""
        flat = flatten(self.config)
        seeds = (SEED, BASE_SEED) if self.base_follows else (SEED,)
        settings = {key: value for key, value in flat.items() if key not in seeds and not is_below(key, NOT_RESULT)}
        # Runs of versions without an identity are distinguished by the path of their model.
        identity = self.summary.get("identity", {"data": None, "model": flat.get("model.path")})
        settings |= {name: identity[name] for name in ("data", "model")}
        return settings | {"version": self.summary["versions"].get("mlens")}

    def shown(self, key: str) -> str:
        """Format a setting for readers: a model by the name of its folder or on the hub, along with its digest."""
        value = self.settings.get(key)
        if key == "model" and value is not None:
            model = self.config["model"]
            name = Path(model["path"]).name if model.get("path") else model.get("name")
            return f"{name} ({str(value)[:6]})"
        return str(value)[:6] if key == "data" and value is not None else str(value)

    def predictions(self, stage: str, columns: tuple[str, ...] | None = None) -> list[pl.DataFrame]:
        """Read the predictions of a stage: a frame for each draw of histories, one row a target.

        Raises UserError if the file is missing or invalid.
        """
        return read_predictions(self.folder / "predictions" / f"{stage}.parquet", columns)

    @cached_property
    def records(self) -> list[dict]:
        """The records of metrics.jsonl; none if the file was removed. Raises UserError if a line isn't a record."""
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
        """The content of plan.json."""
        return read_json(self.folder / "plan.json", PLAN)

    @cached_property
    def prompts(self) -> list[dict]:
        """The test prompts that the run kept; none if the file was removed. Raises UserError if it is invalid."""
        file = self.folder / "predictions" / "prompts.json"
        return read_json(file, PROMPTS) if file.is_file() else []


def read_run(folder: Path) -> Run:
    """Read a finished run. Raises UserError if there is none in `folder`, or if its summary or config is invalid."""
    if not is_finished(folder):
        raise UserError(f"no finished run: {folder}: summary.json is missing")
    config = folder / ".hydra" / "config.yaml"
    if not config.is_file():
        raise UserError(f"no config of a run: {folder}: .hydra/config.yaml is missing")
    return Run(folder, read_json(folder / "summary.json", SUMMARY), read_config(config))


def is_run(folder: Path) -> bool:
    """Return whether this is the folder of a run, finished or not."""
    return (folder / ".hydra" / "config.yaml").is_file() or is_finished(folder)


def is_finished(folder: Path) -> bool:
    """Return whether this is the folder of a finished run."""
    return (folder / "summary.json").is_file()


def walk_runs(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield `folder` and all folders beneath it, sorted by name, each with whether it is a run's.

    Folders inside a run's folder are skipped, and links aren't followed.
    """
    for path, names, _ in os.walk(folder):
        at = Path(path)
        found = is_run(at)
        if found:
            names.clear()
        names.sort()
        yield at, found


def find_runs(folders: Iterable[Path]) -> list[Run]:
    """Read the finished runs in and beneath these folders, each once.

    Raises UserError if one of `folders` doesn't exist or holds no finished run, or if a run's files can't be read.
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no such folder: {folder}. Give the folder of a run or of a sweep, or one that holds runs")
        runs = [path for path, holds_run in walk_runs(folder) if holds_run]
        finished = [path for path in runs if is_finished(path)]
        if not finished:
            others = f" but {len(runs):,} unfinished" if runs else ""
            raise UserError(f"no finished run{others}: {folder}. A run has finished when its summary.json exists")
        found |= {path: read_run(path) for path in finished}
    return list(found.values())


def find_unfinished(folders: Iterable[Path]) -> list[Path]:
    """Return the folders of the unfinished runs in and beneath these folders, each once."""
    found = (path for folder in folders for path, holds_run in walk_runs(folder) if holds_run and not is_finished(path))
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Arm:
    """Runs that differ only in their seeds, with a label that distinguishes them from other arms."""

    label: str
    runs: tuple[Run, ...]

    def mean(self, *keys: str) -> float | None:
        """Return the mean over runs of a figure of their summaries; None if a run doesn't have it."""
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
    """Group runs into arms, in the order of their first runs. Raises UserError if two have equal settings and seed."""
    arms: dict[str, list[Run]] = {}
    base_follows = all(flatten(run.config).get(BASE_SEED, run.seed) == run.seed for run in runs)
    for run in (replace(run, base_follows=base_follows) for run in runs):
        arms.setdefault(json.dumps(run.settings, sort_keys=True, default=repr), []).append(run)
    for members in arms.values():
        seeds = [run.seed for run in members]
        for i, run in enumerate(members):
            if run.seed in seeds[:i]:
                other = members[seeds.index(run.seed)]
                raise UserError(
                    f"two runs have the same settings and seed: {run.folder} and {other.folder}. Give one of them"
                )
    labels = _labels([members[0] for members in arms.values()])
    return [Arm(label, tuple(members)) for label, members in zip(labels, arms.values(), strict=True)]


def strategy_label(history: dict) -> str:
    """Return a strategy's name and its main parameter, from its config node.

    >>> strategy_label({"_target_": "mlens.history.fixed_count.FixedCount", "count": 10})
    'fixed_count 10'
    """
    strategy = str(history.get("_target_", "")).split(".")[-2:][0]
    return " ".join([strategy, *(str(history[name]) for name in PARAMETERS if name in history)])


def _labels(runs: Sequence[Run]) -> list[str]:
    """Return a distinct label for each run: its strategy, and the other settings in which the runs differ.

    Of more than LABEL_SETTINGS of them only those that the labels need to be distinct, and an ellipsis.
    """
    in_label = {f"history.{name}" for name in ("_target_", *PARAMETERS)}
    differing = []
    for key in differing_keys(runs):
        values = {str(run.settings[key]) for run in runs if key in run.settings}
        if len(values) > 1 and key not in in_label:
            differing.append(key)
    shown = _enough_settings(runs, differing)
    ellipsis = [] if len(shown) == len(differing) else ["…"]
    labels: list[str] = []
    for label in [_label(run, shown, *ellipsis) for run in runs]:
        # Values that differ may read the same, as 1 and "1" do.
        numbered = (label if n == 1 else f"{label} ({n})" for n in count(1))
        labels.append(next(one for one in numbered if one not in labels))
    return labels


def _label(run: Run, keys: Sequence[str], *end: str) -> str:
    """Return the strategy of a run with these of its settings."""
    shown = [f"{key}={run.shown(key)}" for key in keys if key in run.settings]
    return one_line(" ".join([strategy_label(run.config["history"]), *shown, *end]))


def _enough_settings(runs: Sequence[Run], keys: list[str]) -> list[str]:
    """Return those of the keys that labels show: all, or of many those that distinguish as many runs as all do."""
    chosen = [key for key in keys if key.startswith("history.")]
    rest = [key for key in keys if key not in chosen]
    if len(rest) <= LABEL_SETTINGS:
        return keys

    def distinct(shown: Sequence[str]) -> int:
        return len({_label(run, shown) for run in runs})

    while distinct(chosen) < distinct(keys):
        best = max(rest, key=lambda key: (distinct([*chosen, key]), key in MAIN_SETTINGS))
        rest.remove(best)
        chosen.append(best)
    return chosen


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """Return the settings in which these runs differ, except for the seed."""
    keys = sorted({key for run in runs for key in run.settings})
    return [key for key in keys if len({json.dumps(run.settings.get(key), default=repr) for run in runs}) > 1]
