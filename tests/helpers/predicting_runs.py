"""Runs with a Predictor of their models, and the inputs to repeat their test predictions."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from hydra.utils import instantiate

from mlens.data.rating_table import RatingTable
from mlens.data.sources import load_table
from mlens.predict import Predictor
from mlens.prompt.context import make_context
from mlens.prompt.pieces import movie_texts
from tests.helpers.runs import composed, run_here

# Prompts so short that histories are trimmed, and data so small that a run takes seconds.
SHORT = ("debug=fast", "data.max_users=12", "prompt.max_tokens=260", "evaluation.max_users=3", "trainer.max_steps=3")


@dataclass(frozen=True)
class PredictingRun:
    """A finished run.

    table: that it read.
    test: its test predictions.
    predictor: of its model.
    """

    folder: Path
    table: RatingTable
    test: pl.DataFrame
    predictor: Predictor

    def history(self, row: dict) -> list[dict]:
        """Return all ratings before the target of a row of `test` by the same user."""
        table = self.table
        user = table.users["id"].to_list().index(row["user"])
        start = int(table.user_offsets[user])
        movies = table.movies.rows(named=True)
        extra = {} if "profile" not in table.users.columns else {"profile": table.users["profile"][user]}
        return [
            {
                "user": row["user"],
                "movie": movies[table.movie[i]]["id"],
                "title": movies[table.movie[i]]["title"],
                "genres": movies[table.movie[i]]["genres"],
                "rating": float(table.rating[i]),
                "timestamp": int(table.timestamp[i]),
                **extra,
            }
            for i in range(start, start + row["t"])
        ]

    def movie(self, row: dict) -> dict:
        """Return the movie of a row of `test`, and when it was rated, as input of the predictor."""
        table = self.table
        movie = table.movies["id"].to_list().index(row["movie"])
        target = int(table.user_offsets[table.users["id"].to_list().index(row["user"])]) + row["t"]
        extra: dict = {"timestamp": int(table.timestamp[target])}
        if table.tags is not None:
            context = make_context(table, movie_texts(table))
            extra["context"] = [context.texts[turn] for turn in context.turns(table, target, 15)]
        title, genres = table.movies["title"][movie], table.movies["genres"][movie]
        return {"movie": row["movie"], "title": title, "genres": genres, **extra}

    def predict(self, row: dict) -> pl.DataFrame:
        return self.predictor.predict(self.history(row), [self.movie(row)])


def predicting_run(folder: Path, *overrides: str) -> PredictingRun:
    """Train a run with these overrides in this process."""
    run_here(folder, *SHORT, *overrides)
    table = load_table(instantiate(composed(*SHORT, *overrides).data))
    test = pl.read_parquet(folder / "predictions" / "test.parquet")
    return PredictingRun(folder, table, test, Predictor.from_run(folder))
