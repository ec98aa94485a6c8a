"""The prediction of a finished run for one target."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mlens.comparison.run_files import read_predictions
from mlens.errors import UserError
from mlens.packing.dataset import RatingDataset, history_hash
from mlens.training.folder import RunFolder


@dataclass(frozen=True)
class Prediction:
    """The prediction for one target, with the history of the first draw.

    probability: of every legal rating, in the order of the scale.
    expected: expected rating.
    argmax: most probable rating.
    rating: true rating.
    """

    probability: dict[float, float]
    expected: float
    argmax: float
    rating: float


def read_prediction(run: Path, dataset: RatingDataset, i: int) -> Prediction:
    """Return the prediction of the finished `run` for target i of `dataset` (validation or test).

    Raises UserError if the run has no such target, or predicted it with another history: its data were different.
    """
    table, stage, target = dataset.table, dataset.stage, int(dataset.stage.targets[i])
    user = int(table.user[target])
    columns = {value: f"p_{value}" for value in table.scale}
    file = RunFolder(run).predictions(stage.name)
    frame, *_ = read_predictions(
        file, ("user", "movie", "t", "rating", "expected", "argmax", "history_hash", *columns.values())
    )
    key = {
        "user": str(table.users["id"][user]),
        "movie": str(table.movies["id"][int(table.movie[target])]),
        "t": str(target - int(table.user_offsets[user])),
        "history_hash": history_hash(dataset.history(i)),
    }
    found = frame.filter(*(pl.col(name).cast(pl.String) == value for name, value in key.items()))
    if len(found) != 1:
        raise UserError(
            f"{file} has no prediction for user {key['user']}, movie {key['movie']}, t={key['t']} with this history: "
            "the data (or mlens) have changed since the run"
        )
    row = found.row(0, named=True)
    probability = {value: float(row[name]) for value, name in columns.items()}
    return Prediction(probability, float(row["expected"]), float(row["argmax"]), float(row["rating"]))
