"""A finished run's model under other histories than those it was trained with."""

from __future__ import annotations

from pathlib import Path

from mlens.audit.audit import audit
from mlens.compose import run_config
from mlens.config import check_config
from mlens.engine.engine import uses_bf16_parameters
from mlens.engine.ranks import join_ranks
from mlens.errors import UserError
from mlens.evaluation.evaluate import by_activity, evaluate
from mlens.evaluation.local_scorer import load_local_scorer
from mlens.files import atomic_write, ensure_folder, refuse_links, write_json
from mlens.identity import read_identity
from mlens.pipeline import open_inputs

# What may differ from the run's config: what a prompt shows, never which targets are rated.
MAY_DIFFER = ("history", "prompt", "evaluation.draws", "packing")


def reevaluate(run: Path, overrides: list[str], trust: bool = False) -> Path:
    """Evaluate the model of the finished `run` on its validation and test targets under these overrides of its config.

    Every rank of a process group calls it. Returns the summary that the main process has written, in
    RUN/evaluations/NAME/.

    Raises UserError where the run isn't finished, an override would change the targets, the evaluation exists already,
    or, unless `trust` allows it, the run would execute code of its own.
    """
    settings = check_config(run_config(run, overrides, MAY_DIFFER, trust))
    ranks = join_ranks()
    folder = run / "evaluations" / ",".join(overrides).replace("/", "_")
    refuse_links(folder.parent, folder, folder / "predictions")
    if ranks.main_first(lambda: (folder / "summary.json").exists()):
        raise UserError(f"{folder} holds this evaluation already: remove it to do it again")
    identity = ranks.on_main(lambda: read_identity(run))
    inputs = open_inputs(settings, ranks, run / "model", identity)
    datasets = {name: inputs.dataset(name) for name in inputs.stages if name != "train"}
    audited = ranks.on_main(lambda: audit(datasets, inputs.roles, settings.split))
    dtype = settings.model.dtype
    bf16 = uses_bf16_parameters(dtype, settings.deepspeed.zero_optimization.stage)
    base_digest = None if identity is None else identity.model
    scorer = load_local_scorer(settings, run / "model", inputs.tokenizer, dtype, bf16, base_digest, ranks)
    results = evaluate(scorer, list(datasets.values()), settings.packing, settings.evaluation.draws)
    evaluated = dict(zip(datasets, results, strict=True))
    if ranks.main:
        for made in (folder.parent, folder, folder / "predictions"):
            ensure_folder(made)
        for name, stage in evaluated.items():
            atomic_write(folder / "predictions" / f"{name}.parquet", stage.frame.write_parquet)
        metrics = {
            name: stage.metrics | by_activity(datasets[name], inputs.roles, stage.frames)
            for name, stage in evaluated.items()
        }
        history = settings.config["history"]
        write_json(
            folder / "summary.json", {"overrides": overrides, "history": history, "metrics": metrics, "audit": audited}
        )
    return folder / "summary.json"
