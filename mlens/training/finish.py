"""The end of a run: export and evaluate the best model, and write the results into the run's folder."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict

import numpy as np
from hydra.conf import HydraConf

from mlens.data.sample import Sample
from mlens.data.split import TRAIN
from mlens.engine.ending import end_ranks_together
from mlens.engine.memory import peak_memory_bytes
from mlens.errors import UserError
from mlens.evaluation.baselines import measure_baselines
from mlens.evaluation.best_possible import measure_best_possible
from mlens.evaluation.evaluate import EvaluationResult, by_activity
from mlens.evaluation.kept_prompts import kept_prompts
from mlens.files import atomic_write, write_json, write_text
from mlens.model.settings import Lora
from mlens.pipeline import RunInputs
from mlens.training.card import model_card
from mlens.training.exported import write_exported
from mlens.training.folder import RunFolder
from mlens.training.loop import Training
from mlens.training.summary import print_table, versions


def finish_run(training: Training, inputs: RunInputs, audited: dict | None, hydra_config: HydraConf) -> float | None:
    """Export the model that was best on validation, evaluate it on validation and test, and write the results.

    The main process writes the predictions, the model card and, last, summary.json, with the findings of the leak
    audit in it. Returns the validation RMSE; None without validation targets.

    A signal raises Stopped until nothing but small files is left to write, and a resumed run repeats this. Later
    signals are ignored: the files are written, and the run is finished.
    """
    engine, folder, journal, progress = training.engine, training.folder, training.journal, training.progress
    settings, roles = inputs.settings, inputs.roles
    with end_ranks_together(engine.ranks, training.stop):
        training.load_best()
        merge = isinstance(settings.peft, Lora) and settings.peft.merge
        engine.export(folder.model, inputs.tokenizer, merge)
        if engine.ranks.main:
            write_exported(folder.model, inputs)
        evaluated = training.evaluate_best()
    seconds = {"training": progress.seconds, "evaluation": training.best_seconds}
    rmse = evaluated["val"].metrics["rmse"] if "val" in evaluated else None
    if not engine.ranks.main:
        return rmse
    training.stop.interrupt(f"asked to stop after training; resume=true output_dir={folder.path} finishes the run")
    for name, stage in evaluated.items():
        atomic_write(folder.predictions(name), stage.frame.write_parquet)
    # Before the baselines, so that the peak memory is the run's without theirs.
    summary = _summary(training, inputs, evaluated, list(hydra_config.overrides.task))
    started = time.perf_counter()
    journal.set_phase("baselines")
    # Announced, since at the size of ml-32m LensKit takes many minutes.
    journal.log(f"fitting baselines to {np.count_nonzero(roles == TRAIN):,} training ratings")
    held_out = {name: training.datasets[name] for name in evaluated}
    baselines = measure_baselines(inputs.table, roles, held_out, settings.evaluation.draws)
    best_possible = {}
    if isinstance(settings.data, Sample):
        truth, draws = settings.data.truth(), settings.evaluation.draws
        best_possible = {name: measure_best_possible(truth, dataset, draws) for name, dataset in held_out.items()}
    seconds["baselines"] = time.perf_counter() - started
    summary |= {"baselines": baselines, "best_possible": best_possible, "audit": audited, "seconds": seconds}
    training.stop.defer()
    write_json(folder.prompts, kept_prompts(training.datasets["test"], evaluated["test"].frames[0]))
    choices = hydra_config.runtime.choices
    card = model_card(settings, settings.data.terms, choices["history"], engine.ranks.world, summary)
    write_text(folder.model / "README.md", card)
    write_json(folder.summary, summary)
    journal.summarise(summary["metrics"], progress.step)
    print_table(
        f"history={choices['history']} data={choices['data']} model={choices['model']}: {progress.step} steps, "
        f"{progress.seconds / 60:.1f} minutes" + (f", best at step {progress.best_step}" if "val" in evaluated else ""),
        {name: stage.metrics for name, stage in evaluated.items()},
        baselines,
        best_possible,
        made_up=summary["made_up_data"],
    )
    print(folder.summary, flush=True)
    return rmse


def report_finished(folder: RunFolder, inputs: RunInputs) -> float | None:
    """Print that the run in `folder` is finished; returns its validation RMSE, None without one.

    Raises UserError where the folder holds another run than that of these inputs.
    """
    summary = json.loads(folder.summary.read_text(encoding="utf-8"))
    now = inputs.fingerprint
    if summary["fingerprint"] != now:
        raise UserError(
            f"{folder.path} holds a finished run with other settings, data, model or version (fingerprint "
            f"{summary['fingerprint']}, now {now}): give another output_dir, or remove it to run it again"
        )
    print(f"this run is finished already: {folder.path}", file=sys.stderr)
    print(folder.summary, flush=True)
    return summary["metrics"].get("val", {}).get("rmse")


def _summary(
    training: Training,
    inputs: RunInputs,
    evaluated: dict[str, EvaluationResult],
    overrides: list[str],
) -> dict:
    datasets, engine = training.datasets, training.engine
    table, roles, identity = inputs.table, inputs.roles, inputs.identity
    assert identity is not None
    metrics = {
        name: stage.metrics | by_activity(datasets[name], roles, stage.frames) for name, stage in evaluated.items()
    }
    return {
        "fingerprint": inputs.fingerprint,
        "identity": {"data": identity.data, "model": identity.model},
        "overrides": overrides,
        "metrics": metrics,
        "counts": {
            "ratings": len(table),
            "users": len(table.users),
            "movies": len(table.movies),
            "targets": {name: len(dataset) for name, dataset in datasets.items()},
            "parameters": engine.parameters,
            "ranks": engine.ranks.world,
        },
        "training": asdict(training.progress),
        "loss": engine.loss,
        "model_check": None if engine.checked is None else asdict(engine.checked),
        "made_up_data": table.made_up,
        "data_notes": table.notes,
        "peak_memory_bytes": peak_memory_bytes(engine.ranks.device),
        "versions": versions(),
    }
