"""How many movies a second of one core are rated for one user: a list of them at once, against one at a time.

    python benchmarks/predicting.py --data DIR [--threads 2] [--movies 1000] [--lines 200]
                                                                          DIR: the folder of ml-latest-small

model=tiny with random weights, in float32 on the CPU, history=all_previous, a budget of 8,192 tokens: the whole history
is shown. At once, the history is read once and each movie is a branch on it. One at a time (a sample of them), each is
a request with its whole prompt. Both are `Predictor.predict`, from records to a ranked table.

`difference`: the largest difference between the probabilities of the two (in brackets: of how many movies). `between
movies`: how far the probabilities of different movies lie apart (standard deviation), against which that must be small.
`seconds` are the processor's own, all threads together, so that whatever else runs on the machine doesn't count.

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

# How many movies are asked for one at a time.
ALONE = 30


def make_predictor(setting: Setting) -> Predictor:
    """Of the setting's model as it is."""
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
    """The first ratings of a user who has more, and movies that aren't among them."""
    user = int(np.argmax(np.diff(table.user_offsets) >= lines))
    rated = slice(int(table.user_offsets[user]), int(table.user_offsets[user]) + lines)
    names = table.movies.rename({"id": "movie"})
    history = names[table.movie[rated]].with_columns(rating=pl.Series(table.rating[rated].astype(np.float64)))
    return history, names.join(history, on="movie", how="anti").sample(movies, seed=0)


def timed(predictor: Predictor, history: pl.DataFrame, requests: list[pl.DataFrame]) -> tuple[pl.DataFrame, float]:
    """What all requests say, and the processor's seconds that they took."""
    predictor.scorer.prefix = None
    began = time.process_time()
    said = pl.concat([predictor.predict(history, request) for request in requests])
    return said, time.process_time() - began


def main(options: argparse.Namespace) -> None:
    setting = make_setting(options.data, "model=tiny", "prompt.max_tokens=8192")
    predictor = make_predictor(setting)
    history, movies = history_and_movies(setting.datasets["test"].table, options.lines, options.movies)
    few = [movies[i : i + 1] for i in range(min(ALONE, len(movies)))]
    timed(predictor, history, few[:1])  # first calls allocate
    together, seconds = timed(predictor, history, [movies])
    alone, seconds_alone = timed(predictor, history, few)
    p = [name for name in together.columns if name.startswith("p_")]
    both = alone.select("movie").join(together, on="movie", maintain_order="left").select(p).to_numpy()
    difference = np.abs(both - alone.select(p).to_numpy()).max()
    apart = together.select(p).to_numpy().std(axis=0).max()
    assert together["history_used"].min() == options.lines, "the budget cut the history"
    table = Table(title=f"Rating movies for one user of {options.lines} ratings, model=tiny, {options.threads} threads")
    for column in ("asked for", "movies", "seconds", "movies/s", "times", "difference", "between movies"):
        table.add_column(column, justify="left" if column == "asked for" else "right")
    rates = len(movies) / seconds, len(few) / seconds_alone
    compared = f"{difference:.0e} ({len(few)})", f"{apart:.0e}"
    table.add_row("at once", f"{len(movies):,}", f"{seconds:.2f}", f"{rates[0]:,.1f}", "1.0", *compared)
    row = (f"{len(few):,}", f"{seconds_alone:.2f}", f"{rates[1]:,.1f}", f"{rates[0] / rates[1]:,.1f}")
    table.add_row("one at a time", *row)
    console().print(table)


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--movies", type=int, default=1000, help="how many movies are rated (1000)")
    parser.add_argument("--lines", type=int, default=200, help="how many ratings the history has (200)")
    start(main, parser)
