"""MovieLens as ratings.csv, movies.csv and tags.csv: ml-latest-small, ml-latest, ml-25m and ml-32m."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mlens.data.raw import HALF_STARS, RawTables
from mlens.errors import UserError


@dataclass(frozen=True)
class MovieLensCsv:
    """One of the CSV releases. `path` is its folder."""

    release: str
    path: str | None = None
    max_users: int | None = None
    rating_scale: list[float] | None = None

    def files(self) -> list[Path]:
        if self.path is None:
            raise UserError("data.path is not set")
        folder = Path(self.path)
        files = [folder / name for name in ("ratings.csv", "movies.csv", "tags.csv")]
        for file in files[:2]:
            if not file.is_file():
                raise UserError(f"{file} is missing")
        return [file for file in files if file.is_file()]

    def read(self, files: list[Path]) -> RawTables:
        ratings = pl.read_csv(files[0], row_index_name="line", row_index_offset=2).rename(
            {"userId": "user", "movieId": "movie"}
        )
        movies = pl.read_csv(files[1]).select(
            movie="movieId",
            title="title",
            genres=pl.when(pl.col("genres") != "(no genres listed)").then(pl.col("genres").str.replace_all("|", ", ", literal=True)),
        )
        tags = None
        if len(files) > 2:
            tags = pl.read_csv(files[2]).rename({"userId": "user", "movieId": "movie"})
        return RawTables(ratings, movies, files[0], tuple(self.rating_scale or HALF_STARS), tags=tags)
