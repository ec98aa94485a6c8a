"""predictions/prompts.json: some test prompts as the model read them, for the eye of whoever reads the comparison."""

from __future__ import annotations

import numpy as np
import polars as pl

from mlens.data import draws
from mlens.packing.dataset import RatingDataset

# Of each kind: targets that every run with this split and evaluation seed keeps, and the run's own worst predictions.
EXAMPLES, WORST = 3, 5
# An example has so many earlier ratings where there are such targets, so that strategies can differ in what they show.
EARLIER = 10


def kept_prompts(dataset: RatingDataset, frame: pl.DataFrame) -> list[dict]:
    """Prompts of `dataset` with what was predicted from them (`frame`, one row a target; of several draws the first):
    which target, its movie's title, how many ratings are shown, and the text. kind: `example` or `worst`."""
    stage, table = dataset.stage, dataset.table
    users, targets = np.unique(stage.user, return_counts=True)
    words = draws.items(targets, draws.EXAMPLES, dataset.seed, table.user_keys[users])
    examples = np.lexsort((words, -np.minimum(stage.count, EARLIER)))[:EXAMPLES]
    errors = (frame["expected"] - frame["rating"]).abs().to_numpy()
    worst = np.argsort(-errors, kind="stable")[:WORST]
    rows = [("example", int(i)) for i in examples] + [("worst", int(i)) for i in worst]
    return [{"kind": kind, **_kept(dataset, frame, i)} for kind, i in rows]


def _kept(dataset: RatingDataset, frame: pl.DataFrame, i: int) -> dict:
    table, row = dataset.table, frame.row(i, named=True)
    kept = {name: row[name] for name in ("user", "movie", "t", "rating", "expected", "history_used")}
    movie = int(table.movie[dataset.stage.targets[i]])
    return kept | {"title": table.movies["title"][movie], "prompt": dataset.text(i)}
