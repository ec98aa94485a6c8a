"""Made-up folders of finished runs, as comparisons read them, with errors of a chosen size; nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from omegaconf import OmegaConf

from mlens.comparison import figures
from mlens.evaluation.metrics import point_metrics
from mlens.files import write_json

SCALE = (1.0, 2.0, 3.0, 4.0, 5.0)
TARGETS_OF = {
    "none": "mlens.history.none.NoHistory",
    "all_previous": "mlens.history.all_previous.AllPrevious",
    "fixed_count": "mlens.history.fixed_count.FixedCount",
    "random": "mlens.history.random.Random",
}
HOSTILE = "</script><script>alert(1)</script> & $x_1$ <b>\u202eTitle\u202c (1999)"


def make_run(
    folder: Path,
    history: str = "none",
    parameters: dict | None = None,
    seed: int = 0,
    error: float = 0.8,
    users: int = 40,
    each: int = 8,
    dropped: int = 0,
    settings: dict | None = None,
    first_user: int = 1,
    targets_seen: int = 1000,
    draws: int = 1,
) -> Path:
    """Make a finished run.

    error: standard deviation of the normal errors of its expected ratings.
    each: targets of each user.
    dropped: ratings over the budget in every second prompt.
    settings: values of config keys.
    """
    truth = np.random.default_rng(7)
    count = users * each
    rating = truth.choice(SCALE, count)
    noise = np.random.default_rng([seed, len(history), int(1000 * error)])
    drawn = np.clip(rating + noise.normal(0, error, (draws, count)), 1, 5)
    frames = [_predictions(history, rating, expected, users, each, dropped, first_user) for expected in drawn]
    frame = frames[0]
    if draws > 1:
        frame = pl.concat([one.with_columns(draw=pl.lit(draw)) for draw, one in enumerate(frames)])
    config: dict[str, Any] = {
        "output_dir": str(folder),
        "seed": seed,
        "data": {"_target_": "mlens.data.sample.Sample", "path": None},
        "split": {"ties": "order", "seed": 42},
        "history": {"_target_": TARGETS_OF[history], **(parameters or {})},
        "prompt": {"trim": "strided", "max_tokens": 2048},
        "trainer": {"optimizer": "muon", "learning_rate": 0.01, "history_loss_weight": 0.0},
        "evaluation": {"seed": 1234, "draws": draws},
        "comparison": {"equal": "targets"},
        "wandb": {"mode": "disabled"},
    }
    for key, value in (settings or {}).items():
        node, _, name = key.rpartition(".")
        config.setdefault(node, {})[name] = value
    user = frame["user"].to_numpy()[:count]
    of_draws = [point_metrics(expected, rating, user) for expected in drawn]
    metrics: dict[str, Any] = {name: float(np.mean([one[name] for one in of_draws])) for name in of_draws[0]}
    rmse = metrics["rmse"]
    metrics |= {
        "accuracy": 0.4,
        "nll": 1.2,
        "calibration_error": 0.05,
        "user_rmse": rmse,
        "argmax_rmse": rmse,
        "illegal_mass": 0.0,
        "by_user_activity": {"1-19": {"targets": count, "rmse": rmse, "mae": 0.5}},
        "by_movie_popularity": {"0": {"targets": count, "rmse": rmse, "mae": 0.5}},
    }
    if draws > 1:
        metrics["averaged"] = {"rmse": float(np.sqrt(np.mean((drawn.mean(axis=0) - rating) ** 2)))}
    baselines = {
        "global_mean": {"rmse": 1.4, "mae": 1.2, "level": 0.9, "taste": 1.072, "auc": 0.5, "ndcg_10": 0.85},
        "movie_mean": {"rmse": 1.3, "mae": 1.1, "level": 0.9, "taste": 0.938, "auc": 0.65, "ndcg_10": 0.9},
        "user_mean_so_far": {"rmse": 1.1, "mae": 0.9, "level": 0.3, "taste": 1.058, "auc": 0.52, "ndcg_10": 0.86},
    }
    summary = {
        "fingerprint": f"{abs(hash((history, seed, error))):016x}"[:16],
        "overrides": [f"history={history}", f"seed={seed}"],
        "metrics": {"val": metrics, "test": metrics},
        "baselines": {"test": {"full_history": baselines, "own_history": baselines}},
        "training": {"targets": targets_seen, "tokens": 5000, "step": 10},
        "seconds": {"training": 12.5, "evaluation": 2.0},
        "made_up_data": True,
        "versions": {"python": "3.11.7", "mlens": "0.1.0"},
    }
    prompts = [
        {
            "kind": kind,
            **frame.select("user", "movie", "t", "rating", "expected", "history_used").row(i, named=True),
            "title": HOSTILE,
            "prompt": f"[TASK]\n{HOSTILE}\n",
        }
        for kind, i in (("example", 3), ("example", 9), ("worst", 5))
    ]
    for part in (".hydra", "training_logs", "predictions"):
        (folder / part).mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(config), folder / ".hydra" / "config.yaml")
    frame.write_parquet(folder / "predictions" / "test.parquet")
    (folder / "predictions" / "prompts.json").write_text(json.dumps(prompts))
    (folder / "plan.json").write_text(json.dumps({"steps": 10, "steps_per_epoch": 5}))
    records = [{"kind": "val", "step": step, "rmse": 1 + error / step, "seconds": float(step)} for step in (5, 10)]
    (folder / "training_logs" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    write_json(folder / "summary.json", summary)
    return folder


def _predictions(
    history: str, rating: np.ndarray, expected: np.ndarray, users: int, each: int, dropped: int, first_user: int
) -> pl.DataFrame:
    count = len(rating)
    argmax = np.searchsorted(SCALE, expected).clip(0, 4)
    # The nearer the prediction is to a rating, the more confident it is.
    confidence = 0.9 - np.abs(expected - np.array(SCALE)[argmax]) / 2
    probability = np.repeat(((1 - confidence) / (len(SCALE) - 1))[:, None], len(SCALE), axis=1)
    probability[np.arange(count), argmax] = confidence
    shown = 0 if history == "none" else 5
    return pl.DataFrame(
        {
            "user": np.repeat(np.arange(first_user, first_user + users), each),
            "movie": 1 + np.repeat(np.arange(first_user, first_user + users), each) * 7 % 500,
            "t": np.tile(np.arange(20, 20 + each), users),
            "rating": rating,
            "expected": expected,
            "argmax": np.array(SCALE)[argmax],
        }
        | {f"p_{value}": probability[:, i] for i, value in enumerate(SCALE)}
        | {
            "history_used": np.full(count, shown),
            "history_dropped": np.where(np.arange(count) % 2, dropped, 0),
            "history_hash": [f"{history} {i if i % 4 else 'same'}" for i in range(count)],
        }
    )


def leave_out_figures(monkeypatch) -> None:
    """Let reports have empty figures: drawing takes most of a report's time."""
    for name in ("intervals", "curves", "groups"):
        monkeypatch.setattr(figures, name, lambda *_, **__: "<svg></svg>")


def make_sweep(folder: Path, seeds: int = 1) -> Path:
    """Make runs of three strategies with errors 1.0, 0.6 and 0.62: the last two don't differ significantly."""
    for seed in range(seeds):
        make_run(folder / f"none_{seed}", "none", seed=seed, error=1.0)
        make_run(folder / f"all_{seed}", "all_previous", seed=seed, error=0.6, dropped=3)
        make_run(folder / f"count_{seed}", "fixed_count", {"count": 10}, seed=seed, error=0.62)
    return folder
