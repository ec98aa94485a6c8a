"""Reading hostile files: the outcome must be the right table or a one-line error; anything else fails the test."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np

from mlens.data.rating_table import RatingTable
from mlens.data.sources import load_table
from mlens.errors import UserError
from tests.helpers.small_sources import Files, SmallSource, rows_of

# Seconds after which the reader of a small file counts as hanging; each takes milliseconds.
TIMEOUT = 60


class Hang(BaseException):
    """A timeout. Not an Exception, so that readers that catch all of these don't catch it."""


@contextmanager
def bounded() -> Iterator[None]:
    """Raise Hang if the body takes longer than TIMEOUT."""

    def give_up(*_: object) -> None:
        raise Hang(f"more than {TIMEOUT} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(TIMEOUT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read(small: SmallSource, files: Files, folder: Path) -> RatingTable | None:
    """Write the files to `folder`, and return their table after comparing it with the naive reading.

    Returns None if they are refused with a one-line error that names the folder. Other exceptions propagate.
    """
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        with bounded():
            table = load_table(small.source(folder))
    except UserError as error:
        assert is_clear(error, folder)
        return None
    assert rows_of(small, table) == sorted(small.naive(files))
    assert_consistent(table)
    return table


def is_clear(error: UserError, folder: Path) -> bool:
    message = str(error)
    return message.isprintable() and len(message) <= 2000 and str(folder) in message


def assert_consistent(table: RatingTable) -> None:
    """Assert the invariants of a table that later steps rely on."""
    n, users, movies = len(table), len(table.users), len(table.movies)
    assert n > 0
    assert table.user_offsets[0] == 0 and table.user_offsets[-1] == n and (np.diff(table.user_offsets) > 0).all()
    assert np.array_equal(table.user, np.repeat(np.arange(users), np.diff(table.user_offsets)))
    assert table.movie.min() >= 0 and table.movie.max() < movies
    assert np.isin(table.rating, table.scale).all()
    assert table.timestamp.min() >= 0
    assert all((np.diff(table.timestamp[a:b]) >= 0).all() for a, b in pairwise(table.user_offsets))
    times = set(zip(table.user.tolist(), table.movie.tolist(), table.timestamp.tolist(), strict=True))
    assert len(times) == n
    assert table.users["id"].n_unique() == users and table.movies["id"].n_unique() == movies
    texts = [*table.movies["title"], *table.movies["genres"]]
    texts += [text for name in ("profile", "task") if name in table.users.columns for text in table.users[name] if text]
    texts += [] if table.tags is None else [*table.tags["tag"]]
    texts += [] if table.contexts is None else [turn for turns in table.contexts["context"] for turn in turns]
    assert not any(character in text for text in texts for character in "\0\n\r\t\x0b\x0c\x1b\x85\u2028\u2029")
    assert all(table.movies["title"])
