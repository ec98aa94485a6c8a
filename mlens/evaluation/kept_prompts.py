"""predictions/prompts.json: some test prompts as the model read them, for readers of the comparison."""

from __future__ import annotations

import numpy as np
import polars as pl

from mlens.data import draws
from mlens.packing.dataset import RatingDataset

# Number of prompts of each kind: targets that every run with this split and evaluation seed keeps, and the targets that
# this run predicted worst.
EXAMPLES, WORST = 3, 5
# Targets with at least this many earlier ratings are preferred as examples, so that strategies can differ in them.
EARLIER = 10


def kept_prompts(dataset: RatingDataset, frame: pl.DataFrame) -> list[dict]:
    """Return some prompts of `dataset` with their predictions, as dicts of the kind (`example` or `worst`), the target,
    its movie's title, the number of ratings shown, the prediction and the text.

    frame: predictions, one row a target; of several draws, the first.
    """
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
