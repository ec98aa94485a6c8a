"""The end of a run: the best model exported and measured, and what is left in the folder."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict

import numpy as np
from omegaconf import DictConfig
from transformers import PreTrainedTokenizerBase

from mlens.config import Settings, fingerprint, resolved
from mlens.engine.engine import Engine
from mlens.engine.memory import peak_memory_bytes
from mlens.evaluation.baselines import measure_baselines
from mlens.evaluation.evaluate import Evaluated, by_activity, evaluate
from mlens.packing.dataset import RatingDataset
from mlens.packing.plan import Collator
from mlens.training.folder import RunFolder, write_json
from mlens.training.journal import Journal
from mlens.training.loop import Progress
from mlens.training.report import print_table, versions


def conclude(
    engine: Engine,
    datasets: dict[str, RatingDataset],
    collator: Collator,
    roles: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
    progress: Progress,
    settings: Settings,
    config: DictConfig,
    overrides: list[str],
    folder: RunFolder,
    journal: Journal,
) -> float | None:
    """Take the model that was best on validation, export it, evaluate it on validation and test, and write predictions
    and, last of all, summary.json. Returns the validation RMSE (None without validation targets)."""
    if progress.best_rmse is not None and progress.best_step != progress.step:
        engine.load(folder.checkpoints, "best", weights_only=True)
    engine.export(folder.model, tokenizer)
    stages = [name for name in datasets if name != "train"]
    evaluated: dict[str, Evaluated] = {}
    started = time.perf_counter()
    for name in stages:
        bar = journal.begin(f"evaluating {name}", len(datasets[name]) * settings.evaluation.draws)
        evaluated[name] = evaluate(engine, datasets[name], collator, settings.evaluation.draws)
        journal.end(bar)
    evaluation_seconds = time.perf_counter() - started
    rmse = evaluated["val"].metrics["rmse"] if "val" in evaluated else None
    if not journal.speaks:
        return rmse
    summary = _summary(engine, datasets, roles, evaluated, progress, settings, config, overrides)
    summary["seconds"] = {"training": progress.seconds, "evaluation": evaluation_seconds}
    for name, stage in evaluated.items():
        _write_parquet(stage, folder, name)
    write_json(folder.summary, summary)
    journal.close(summary["metrics"])
    made_up = " (made-up data)" if datasets["train"].table.made_up else ""
    title = f"{' '.join(overrides) or 'defaults'}{made_up}: {progress.step} steps, best at {progress.best_step}"
    print_table(title, {name: stage.metrics for name, stage in evaluated.items()}, summary["baselines"])
    print(folder.summary)
    sys.stdout.flush()
    return rmse


def _summary(
    engine: Engine,
    datasets: dict[str, RatingDataset],
    roles: np.ndarray,
    evaluated: dict[str, Evaluated],
    progress: Progress,
    settings: Settings,
    config: DictConfig,
    overrides: list[str],
) -> dict:
    table = datasets["train"].table
    metrics = {
        name: stage.metrics | by_activity(datasets[name], roles, stage.frame) for name, stage in evaluated.items()
    }
    return {
        "fingerprint": fingerprint(resolved(config), table.content_hash()),
        "overrides": overrides,
        "metrics": metrics,
        "baselines": {name: measure_baselines(table, roles, datasets[name].stage) for name in evaluated},
        "counts": {
            "ratings": len(table),
            "users": len(table.users),
            "movies": len(table.movies),
            "targets": {name: len(dataset) for name, dataset in datasets.items()},
            "parameters": engine.parameters,
            "ranks": engine.ranks.world,
        },
        "training": asdict(progress),
        "made_up_data": table.made_up,
        "peak_memory_bytes": peak_memory_bytes(engine.ranks.device),
        "versions": versions(),
    }


def _write_parquet(stage: Evaluated, folder: RunFolder, name: str) -> None:
    file = folder.predictions(name)
    beside = file.with_name(f".{file.name}.new")
    stage.frame.write_parquet(beside)
    beside.replace(file)
