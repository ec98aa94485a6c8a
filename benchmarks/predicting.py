"""Predicted movies a second for one user on one core: a list in one request, against one movie per request.

    python benchmarks/predicting.py --data DIR [--threads 2] [--movies 1000] [--lines 200]
                                                                          DIR: the folder of ml-latest-small

model=tiny with random weights, in float32 on the CPU, history=all_previous, a budget of 8,192 tokens, in which the full
history fits. In one request, the history is read once as a prefix, and each movie is a suffix. One at a time (a sample
of the movies), each request reads its full prompt. Both call `Predictor.predict`, from records to a ranked table.

The columns:

- `seconds`: CPU time of all threads, so that other processes don't count;
- `difference`: the largest difference between the probabilities of the two (in brackets: the number of movies);
- `between movies`: the standard deviation of the probabilities over movies, to which the difference must be small.

About a minute on one core.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import mlens  # noqa: F401  before torch, which reads how threads wait

# isort: split
import numpy as np
import polars as pl
import torch
from rich.table import Table
from setting import Setting, command, console, make_setting, start

from mlens.data.rating_table import RatingTable
from mlens.engine.ranks import Ranks
from mlens.evaluation.local_scorer import LocalScorer
from mlens.model.settings import NoPeft
from mlens.predict import Predictor, Prompter
from mlens.training.exported import ExportedSettings

# The number of movies that are predicted one at a time.
ONE_AT_A_TIME = 30


def make_predictor(setting: Setting) -> Predictor:
    """Make a predictor with the setting's untrained model."""
    settings = setting.inputs.settings
    exported = ExportedSettings(
        folder=Path(),
        scale=setting.datasets["test"].table.scale,
        history=settings.history,
        ablation=settings.ablation,
        prompt=settings.prompt,
        packing=settings.packing,
        evaluation=settings.evaluation,
        model=settings.model,
        peft=NoPeft(),
        seed=settings.seed,
        dtype=settings.model.dtype,
        bf16_parameters=False,
        chat_frame=None,
        base_digest=None,
    )
    scorer = LocalScorer(setting.model("rows"), Ranks(0, 1, torch.device("cpu")), autocast=False)
    return Predictor(Prompter(exported, setting.inputs.tokenizer), scorer)


def history_and_movies(table: RatingTable, lines: int, movies: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the first `lines` ratings of a user, and `movies` random movies that aren't among them."""
    user = int(np.argmax(np.diff(table.user_offsets) >= lines))
    rated = slice(int(table.user_offsets[user]), int(table.user_offsets[user]) + lines)
    names = table.movies.rename({"id": "movie"})
    history = names[table.movie[rated]].with_columns(rating=pl.Series(table.rating[rated].astype(np.float64)))
    return history, names.join(history, on="movie", how="anti").sample(movies, seed=0)


def timed(predictor: Predictor, history: pl.DataFrame, requests: list[pl.DataFrame]) -> tuple[pl.DataFrame, float]:
    """Return the predictions of all requests, and the CPU time that they took."""
    predictor.scorer.prefix = None
    began = time.process_time()
    predictions = pl.concat([predictor.predict(history, request) for request in requests])
    return predictions, time.process_time() - began


def main(options: argparse.Namespace) -> None:
    setting = make_setting(options.data, "model=tiny", "prompt.max_tokens=8192")
    predictor = make_predictor(setting)
    history, movies = history_and_movies(setting.datasets["test"].table, options.lines, options.movies)
    few = [movies[i : i + 1] for i in range(min(ONE_AT_A_TIME, len(movies)))]
    timed(predictor, history, few[:1])  # first calls allocate
    together, seconds = timed(predictor, history, [movies])
    separate, separate_seconds = timed(predictor, history, few)
    p = [name for name in together.columns if name.startswith("p_")]
    both = separate.select("movie").join(together, on="movie", maintain_order="left").select(p).to_numpy()
    difference = np.abs(both - separate.select(p).to_numpy()).max()
    spread = together.select(p).to_numpy().std(axis=0).max()
    assert together["history_used"].min() == options.lines, "the budget cut the history"
    table = Table(title=f"Rating movies for one user of {options.lines} ratings, model=tiny, {options.threads} threads")
    for column in ("request", "movies", "seconds", "movies/s", "times", "difference", "between movies"):
        table.add_column(column, justify="left" if column == "request" else "right")
    rates = len(movies) / seconds, len(few) / separate_seconds
    compared = f"{difference:.0e} ({len(few)})", f"{spread:.0e}"
    table.add_row("one list", f"{len(movies):,}", f"{seconds:.2f}", f"{rates[0]:,.1f}", "1.0", *compared)
    row = (f"{len(few):,}", f"{separate_seconds:.2f}", f"{rates[1]:,.1f}", f"{rates[0] / rates[1]:,.1f}")
    table.add_row("one at a time", *row)
    console().print(table)


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--movies", type=int, default=1000, help="the number of movies to predict (1000)")
    parser.add_argument("--lines", type=int, default=200, help="the number of ratings in the history (200)")
    start(main, parser)
