"""RatingTable: all ratings as NumPy columns, sorted by user and time, memory-mapped from a folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from mlens.data.chunked import by_blocks
from mlens.errors import UserError
from mlens.files import write_json

COLUMNS = ("user", "movie", "rating", "timestamp", "user_offsets")


def raw_id_keys(raw_ids: pl.Series) -> np.ndarray:
    """Return 64-bit keys of raw ids, for counter-based random draws: [n] uint64.

    The key of an integer id is the integer itself, also where it is text in a column that has other text; the key of
    any other text is the first 8 bytes of its BLAKE2b digest.
    """
    numbers = raw_ids.cast(pl.Int64, strict=False)
    other = numbers.cast(pl.String).ne_missing(raw_ids.cast(pl.String)).to_numpy()
    keys = numbers.fill_null(0).to_numpy().astype(np.uint64)
    digests = [hashlib.blake2b(raw_id.encode(), digest_size=8).digest() for raw_id in raw_ids.filter(other)]
    keys[other] = np.frombuffer(b"".join(digests), dtype="<u8")
    return keys


@dataclass(frozen=True)
class RatingTable:
    """Ratings sorted by (user, timestamp, source order).

    user [n] int32: row of `users`.
    movie [n] int32: row of `movies`.
    rating [n] float32: on the scale.
    timestamp [n] int64: seconds since 1970; line numbers where the source has no times.
    user_offsets [users + 1] int64: the ratings of user u are user_offsets[u]:user_offsets[u + 1].
    users: frame with one row a user: `id` (raw), and where the source has them `profile` (text), `task` (text).
    movies: frame with one row a movie: `id` (raw), `title`, `genres` (text, comma separated, may be empty).
    scale: the legal ratings, ascending.
    tags: frame `user, movie, tag, timestamp` sorted by (user, timestamp, source order), or None.
    contexts: frame `context` (list of text), one row a rating, or None.
    made_up: whether the data are generated, not measured.
    notes: what a user of the data should know, such as how many ratings were dropped and why; each a line.
    path: the cache folder from which the columns are mapped (None: in memory only).
    """

    user: np.ndarray
    movie: np.ndarray
    rating: np.ndarray
    timestamp: np.ndarray
    user_offsets: np.ndarray
    users: pl.DataFrame
    movies: pl.DataFrame
    scale: tuple[float, ...]
    tags: pl.DataFrame | None = None
    contexts: pl.DataFrame | None = None
    made_up: bool = False
    notes: tuple[str, ...] = ()
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.user)

    @cached_property
    def rating_index(self) -> np.ndarray:
        """The index of each rating in `scale`: [n] int16."""
        middles = (np.array(self.scale[1:]) + np.array(self.scale[:-1])) / 2
        return by_blocks(lambda rating: np.asarray(np.searchsorted(middles, rating), dtype=np.int16), self.rating)

    @cached_property
    def user_keys(self) -> np.ndarray:
        return raw_id_keys(self.users["id"])

    @cached_property
    def movie_keys(self) -> np.ndarray:
        return raw_id_keys(self.movies["id"])

    def named(self, rating: int) -> str:
        """Describe a rating by raw ids, as in `user 5, movie 10`."""
        rating = int(rating) % len(self)
        user, movie = int(np.searchsorted(self.user_offsets, rating, side="right")) - 1, int(self.movie[rating])
        return f"user {self.users['id'][user]}, movie {self.movies['id'][movie]}"

    def content_hash(self) -> str:
        """Hash everything that a prompt or a split can depend on: for a mapped table, the cache folder's name."""
        if self.path is not None:
            return self.path.name
        digest = hashlib.blake2b(digest_size=16)
        for name in COLUMNS:
            digest.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        for frame in (self.users, self.movies, self.tags, self.contexts):
            if frame is not None:
                digest.update(frame.write_json().encode())
        digest.update(repr(self.scale).encode())
        return digest.hexdigest()

    def __reduce__(self):
        # A memmap would be pickled with all its content for every worker; the folder's path is enough.
        if self.path is not None:
            return open_table, (self.path,)
        return super().__reduce__()


def save_table(table: RatingTable, folder: Path) -> None:
    """Write the table to the existing, empty `folder`, in the format that `open_table` maps."""
    for name in COLUMNS:
        _save_column(folder / f"{name}.npy", getattr(table, name))
    for name in ("users", "movies", "tags", "contexts"):
        frame = getattr(table, name)
        if frame is not None:
            frame.write_parquet(folder / f"{name}.parquet")
    write_json(folder / "meta.json", {"scale": table.scale, "made_up": table.made_up, "notes": table.notes})


def _save_column(file: Path, column: np.ndarray) -> None:
    """Like np.save, but a failed write raises the system's error."""
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(column))
        stream.write(np.ascontiguousarray(column).data)


def open_table(folder: Path) -> RatingTable:
    """Map the table that `save_table` wrote; ratings are read on use. Raises UserError where the folder was deleted."""
    if not (folder / "meta.json").is_file():
        raise UserError(f"{folder} is gone: the cache was deleted while a run used it. Start the run again")
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))

    def frame(name: str) -> pl.DataFrame | None:
        file = folder / f"{name}.parquet"
        return pl.read_parquet(file, glob=False) if file.exists() else None

    return RatingTable(
        **{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in COLUMNS},
        users=pl.read_parquet(folder / "users.parquet", glob=False),
        movies=pl.read_parquet(folder / "movies.parquet", glob=False),
        tags=frame("tags"),
        contexts=frame("contexts"),
        scale=tuple(meta["scale"]),
        made_up=meta["made_up"],
        notes=tuple(meta.get("notes", ())),  # not in tables that earlier versions cached
        path=folder,
    )
