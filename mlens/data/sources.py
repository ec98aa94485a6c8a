"""The protocol of a data source, and the loading of its RatingTable through the cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl

from mlens.data import draws
from mlens.data.cache import cached_folder, content_key
from mlens.data.k_core import keep_k_core
from mlens.data.rating_table import RatingTable, open_table, raw_id_keys, save_table
from mlens.data.raw import RawTables, build_table
from mlens.data.terms import Terms
from mlens.data.text_files import refuse_lfs_pointer
from mlens.errors import UserError

# Part of every cache key: must change with any change of a reader's or `build_table`'s result for the same files.
READER_VERSION = 4
# Part of the keys of subsets: must change where data.max_users would keep other users.
SUBSET_VERSION = 2
# The settings of the k-core.
K_CORE = ("min_user_ratings", "min_item_ratings")


class Source(Protocol):
    """A data source: one dataclass, one YAML in conf/data/."""

    @property
    def max_users(self) -> int | None:
        """How many users to keep (None: all)."""

    @property
    def min_user_ratings(self) -> int | None:
        """The fewest ratings of a user that is kept (None: any number)."""

    @property
    def min_item_ratings(self) -> int | None:
        """The fewest ratings of an item that is kept (None: any number)."""

    @property
    def terms(self) -> Terms:
        """The name, licence and citation of the data."""

    def files(self) -> list[Path]:
        """Return the files to read, downloaded or unpacked first. Raises UserError where one is missing."""

    def read(self, files: list[Path]) -> RawTables:
        """Read and check the files. Raises UserError naming file, line and rule."""


def load_table(source: Source) -> RatingTable:
    """Return the table of `source`; the first call reads its files, later calls with the same content map the cache.

    Raises UserError where a file is missing, unreadable, invalid, or changes while it is read.
    """
    with _read_errors():
        files = source.files()
        for file in files:
            refuse_lfs_pointer(file)
        key = _key(source, files)

    def write(folder: Path) -> None:
        with _read_errors():
            raw = source.read(files)
            if _key(source, files) != key:
                names = ", ".join(str(file) for file in files)
                raise UserError(f"{names}: changed while being read. Start again when all files are complete")
        if source.min_user_ratings is not None or source.min_item_ratings is not None:
            raw = keep_k_core(raw, source.min_user_ratings, source.min_item_ratings)
        if source.max_users is not None:
            raw = _subset(raw, source.max_users)
        save_table(build_table(raw), folder)

    return open_table(cached_folder("tables", key, write))


@contextmanager
def _read_errors() -> Iterator[None]:
    """Turn an OSError (no permission, a disk error, a name that is too long) into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or 'the data'} can't be read: {error.strerror or error}") from error


def _key(source: Source, files: list[Path]) -> str:
    version = READER_VERSION if source.max_users is None else [READER_VERSION, SUBSET_VERSION]
    return content_key(version, type(source).__name__, _settings(source), files=files)


def _settings(source: Source) -> dict:
    # The files' content doesn't depend on their location, nor on what their items are called. Without a k-core, the key
    # is that of earlier versions.
    without = {"path", "movies_path", "item"} | {name for name in K_CORE if getattr(source, name) is None}
    return {name: value for name, value in vars(source).items() if name not in without}


def _subset(raw: RawTables, max_users: int) -> RawTables:
    """Keep `max_users` users, drawn by a fixed seed: the same in every run; a larger subset contains a smaller one."""
    users = raw.ratings["user"].unique().sort()
    if len(users) <= max_users:
        return raw
    words = draws.each(draws.DATA_USERS, 0, raw_id_keys(users))
    kept = users.gather(np.argsort(words, kind="stable")[:max_users])
    ratings = raw.ratings.filter(pl.col("user").is_in(kept.implode()))
    return RawTables(**{**vars(raw), "ratings": ratings})
