"""Similarity of movies, by their texts or by training ratings.

No pair of movies is stored: similarities are computed when they are needed.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from mlens.checks import require_choice
from mlens.data import draws
from mlens.data.chunked import int_type
from mlens.data.ragged import offsets, ranges
from mlens.data.rating_table import RatingTable, raw_id_keys
from mlens.errors import UserError
from mlens.files import atomic_write
from mlens.text import first_line

BY = ("ratings", "text")
FOLDS = 10
# The number of common users at which a similarity by ratings is halved.
SHRINKAGE = 25.0
# Similarities are rounded, so that ties don't depend on the order of summation.
DECIMALS = 6
# The largest number of users whose ratings are used: all of ml-1m, and of larger data a sample of this size.
MOST_RATERS = 20_000
# The largest number of elements of a temporary array: 64 MB.
CELLS = 1 << 23
# The file of a fitted similarity in the folder of an exported model.
FILE = "history_similarity.npz"
YEAR = re.compile(r"\(\d{4}(?:[-–]\d{0,4})?\)\s*$")


class Similarity(Protocol):
    """The similarities of the movies of one table."""

    def between(self, user: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Return the similarity of each of n movies to each of m, for the histories of `user`: [n, m] float64.

        It is from -1 to 1, and 0 where nothing is known. The arguments are indices of the table; one: [n], other: [m].
        """

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what is exported with a model."""


@dataclass(frozen=True, eq=False)
class TextSimilarity:
    """The cosine of TF-IDF vectors of the words of the title, without the year, and the genres.

    tf is the number of occurrences, idf = ln((1 + n) / (1 + df)) + 1 with the n movies of the catalogue that it was
    fitted on, df of which contain the term (Salton and Buckley, "Term-weighting approaches in automatic text
    retrieval", 1988, smoothed as in scikit-learn). Terms that the catalogue doesn't contain are ignored.

    terms: in the order of `idf`.
    idf [terms] float64.
    starts [movies + 1]: the terms of movie m of the table are starts[m] : starts[m + 1] of the next two.
    term [n]: index of a term.
    weight [n] float64: of the term in the movie's vector of length 1.
    """

    terms: tuple[str, ...]
    idf: np.ndarray
    starts: np.ndarray
    term: np.ndarray
    weight: np.ndarray

    @classmethod
    def fit(cls, table: RatingTable) -> TextSimilarity:
        found = _movie_terms(table)
        df = Counter(term for terms in found for term in set(terms))
        terms = tuple(sorted(df))
        idf = np.log((1 + len(found)) / (1 + np.array([df[term] for term in terms], dtype=np.float64))) + 1
        return cls.of_movies(terms, idf, found)

    @classmethod
    def of_movies(cls, terms: tuple[str, ...], idf: np.ndarray, movies: Sequence[Sequence[str]]) -> TextSimilarity:
        """Return the similarities of movies with these terms.

        terms, idf: of the catalogue
        movies: the terms of each movie
        """
        index = {term: i for i, term in enumerate(terms)}
        counts = [Counter(index[term] for term in found if term in index) for found in movies]
        sizes = np.array([len(count) for count in counts], dtype=np.int64)
        term = np.array([i for count in counts for i in count], dtype=np.int64)
        weight = idf[term] * np.array([n for count in counts for n in count.values()], dtype=np.float64)
        movie = np.repeat(np.arange(len(counts)), sizes)
        weight /= np.sqrt(np.bincount(movie, weight**2, len(counts)))[movie]
        return cls(terms, idf, offsets(sizes), term, weight)

    def between(self, user: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        row, term, weight = self._entries(one)
        shared, column = np.unique(term, return_inverse=True)  # others' other terms don't count
        left, cosine = np.zeros((len(one), len(shared))), np.zeros((len(one), len(other)))
        left[row, column] = weight
        step = max(1, CELLS // max(1, len(shared)))
        for start in range(0, len(other) if len(shared) else 0, step):
            row, term, weight = self._entries(other[start : start + step])
            column = np.minimum(np.searchsorted(shared, term), len(shared) - 1)
            both = shared[column] == term
            right = np.zeros((len(other[start : start + step]), len(shared)))
            right[row[both], column[both]] = weight[both]
            cosine[:, start : start + step] = left @ right.T
        return _rounded(cosine)

    def _entries(self, movies: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return index into `movies`, term and weight of each of their terms: three [n]."""
        sizes = self.starts[movies + 1] - self.starts[movies]
        at = ranges(self.starts[movies], sizes)
        return np.repeat(np.arange(len(movies)), sizes), self.term[at], self.weight[at]

    def arrays(self) -> dict[str, np.ndarray]:
        return {"terms": np.frombuffer("\n".join(self.terms).encode(), dtype=np.uint8), "idf": self.idf}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], table: RatingTable) -> TextSimilarity:
        terms, idf = tuple(arrays["terms"].astype(np.uint8).tobytes().decode().split("\n")), arrays["idf"]
        if idf.shape != (len(terms),) or idf.dtype != np.float64:
            raise ValueError("terms and idf don't match")
        return cls.of_movies(terms, idf, _movie_terms(table))


def _movie_terms(table: RatingTable) -> list[list[str]]:
    """Return the terms of each movie: the words of its title, and its genres in brackets."""
    return [
        re.findall(r"\w+", YEAR.sub("", title).lower())
        + [f"({genre.lower()})" for genre in genres.split(", ") if genre]
        for title, genres in zip(table.movies["title"], table.movies["genres"], strict=True)
    ]


@dataclass(frozen=True, eq=False)
class FoldedRatings:
    """Training ratings of users in folds, and the similarity of movies by the ratings of all folds but one.

    The ratings of rater u are starts[u] : starts[u + 1].

    starts [raters + 1] int64.
    movie [n] int32: index into `movie_keys`, at most once for each rater.
    rating [n] float32.
    fold [raters] int8: 0 to FOLDS - 1.
    movie_keys [movies] uint64: of raw ids.
    text_keys [movies] uint64: of titles and genres.
    """

    starts: np.ndarray
    movie: np.ndarray
    rating: np.ndarray
    fold: np.ndarray
    movie_keys: np.ndarray
    text_keys: np.ndarray

    @cached_property
    def _rater(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.fold), dtype=np.int32), np.diff(self.starts))

    @cached_property
    def _centred(self) -> np.ndarray:
        """Each rating minus the mean of its rater: [n] float64."""
        sums = np.bincount(self._rater, self.rating, len(self.fold))
        return self.rating - (sums / np.maximum(np.diff(self.starts), 1))[self._rater]

    @cached_property
    def _by_movie(self) -> tuple[np.ndarray, np.ndarray]:
        """The ratings of movie m are order[starts[m] : starts[m + 1]], by rater: (starts, order)."""
        order = np.argsort(self.movie, kind="stable").astype(int_type(len(self.movie)))
        return offsets(np.bincount(self.movie, minlength=len(self.movie_keys))), order

    @cached_property
    def _norm(self) -> np.ndarray:
        """The length of each movie's vector of centred ratings without each fold: [FOLDS, movies]."""
        movies = len(self.movie_keys)
        cell = self.fold[self._rater].astype(np.int64) * movies + self.movie
        by_fold = np.bincount(cell, self._centred**2, FOLDS * movies).reshape(FOLDS, movies)
        # Summed, not subtracted from the total, so that no rounding error depends on the fold that is left out.
        return np.sqrt([np.delete(by_fold, fold, axis=0).sum(axis=0) for fold in range(FOLDS)])

    def similarity(self, fold: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Return the similarity of each of n movies to each of m by the ratings outside `fold`: [n, m] float64."""
        dot, common = np.zeros((len(one), len(other))), np.zeros((len(one), len(other)))
        step = max(1, CELLS // max(1, len(one) + len(other)))
        for start in range(0, len(self.fold), step):
            raters = slice(start, min(start + step, len(self.fold)))
            (left, of_left), (right, of_right) = (self._dense(fold, movies, raters) for movies in (one, other))
            dot += left.T @ right
            common += of_left.T @ of_right
        norm = self._norm[fold, one][:, None] * self._norm[fold, other]
        cosine = np.divide(dot, norm, out=np.zeros_like(dot), where=norm > 0)
        return _rounded(cosine * (common / (common + SHRINKAGE)))

    def _dense(self, fold: int, movies: np.ndarray, raters: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the centred ratings of these movies outside `fold`, 0 where there is none, and where there is one.

        Both are [raters, movies]; the second is float32, 0 or 1.
        """
        starts, order = self._by_movie
        sizes = starts[movies + 1] - starts[movies]
        ratings, column = order[ranges(starts[movies], sizes)], np.repeat(np.arange(len(movies)), sizes)
        rater = self._rater[ratings]
        kept = (self.fold[rater] != fold) & (rater >= raters.start) & (rater < raters.stop)
        cell = (rater[kept] - raters.start, column[kept])
        shape = (raters.stop - raters.start, len(movies))
        values, exist = np.zeros(shape), np.zeros(shape, dtype=np.float32)
        values[cell], exist[cell] = self._centred[ratings[kept]], 1
        return values, exist


@dataclass(frozen=True, eq=False)
class RatingSimilarity:
    """The shrunk item-item cosine of training ratings, without those of the user's fold.

    Ratings are centred on the mean of their user (Sarwar et al., "Item-based Collaborative Filtering Recommendation
    Algorithms", WWW 2001: adjusted cosine). The cosine is multiplied by n / (n + SHRINKAGE), where n users rated both
    movies (Bell and Koren, "Improved Neighborhood-based Collaborative Filtering", KDD Cup 2007). It is 0 for a movie
    without training ratings.

    Users are divided into FOLDS folds by a draw keyed by the raw id, and the histories of a user are chosen by the
    ratings of the other folds. So a user's rating of a training target never helps to choose the target's history,
    which would make training histories better than those of new targets. Users without training ratings have a fold
    too. If there are more than MOST_RATERS users, a sample of that size is drawn.

    ratings: the training ratings.
    known [movies]: the index in `ratings` of each movie of the table; -1 for a movie that isn't there.
    user_fold [users] int8: the fold of each user of the table.
    """

    ratings: FoldedRatings
    known: np.ndarray
    user_fold: np.ndarray

    @classmethod
    def fit(cls, table: RatingTable, trained: np.ndarray) -> RatingSimilarity:
        """Fit on the ratings of `table` where `trained` [n] bool; of a user's ratings of one movie, on the latest."""
        fold, users = user_folds(table), np.asarray(table.user)
        rows = np.flatnonzero(trained & _drawn_users(table)[users])
        pair = users[rows].astype(np.int64) * len(table.movies) + np.asarray(table.movie)[rows]
        order = np.argsort(pair, kind="stable")
        rows = rows[order[np.append(pair[order][1:] != pair[order][:-1], True)[: len(order)]]]
        raters, rater = np.unique(users[rows], return_inverse=True)
        ratings = FoldedRatings(
            starts=offsets(np.bincount(rater, minlength=len(raters))),
            movie=np.asarray(table.movie)[rows],
            rating=np.asarray(table.rating)[rows],
            fold=fold[raters],
            movie_keys=table.movie_keys,
            text_keys=_text_keys(table),
        )
        return cls(ratings, np.arange(len(table.movies)), fold)

    def between(self, user: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        rows, columns = self.known[one], self.known[other]
        found = np.zeros((len(one), len(other)))
        known = np.ix_(rows >= 0, columns >= 0)
        found[known] = self.ratings.similarity(int(self.user_fold[user]), rows[rows >= 0], columns[columns >= 0])
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: getattr(self.ratings, name) for name in FoldedRatings.__dataclass_fields__}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], table: RatingTable) -> RatingSimilarity:
        """Return the similarities of the table's movies, known by raw id or else by title and genres."""
        ratings = FoldedRatings(**{name: arrays[name] for name in FoldedRatings.__dataclass_fields__})
        _require_valid(ratings)
        by_id = _positions(ratings.movie_keys, table.movie_keys)
        by_text = _positions(ratings.text_keys, _text_keys(table))
        return cls(ratings, np.where(by_id >= 0, by_id, by_text), user_folds(table))


def _rounded(similarity: np.ndarray) -> np.ndarray:
    return np.round(similarity, DECIMALS) + 0.0  # 0.0 in place of -0.0


def user_folds(table: RatingTable) -> np.ndarray:
    """Draw the fold of each user by the raw id: [users] int8."""
    return (draws.each(draws.SIMILARITY_FOLDS, 0, table.user_keys) % np.uint64(FOLDS)).astype(np.int8)


def _drawn_users(table: RatingTable) -> np.ndarray:
    """Draw MOST_RATERS of the users by the raw id, all if they are fewer: [users] bool."""
    users = len(table.users)
    if users <= MOST_RATERS:
        return np.ones(users, dtype=bool)
    words = draws.each(draws.SIMILARITY_FOLDS, 0, table.user_keys, epoch=1)
    drawn = np.zeros(users, dtype=bool)
    drawn[np.argsort(words, kind="stable")[:MOST_RATERS]] = True
    return drawn


def _text_keys(table: RatingTable) -> np.ndarray:
    return raw_id_keys(table.movies.select(pl.format("{} ({})", "title", "genres")).to_series())


def _positions(saved: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return where each key is in `saved`: [n] int64, -1 for a key that isn't there."""
    order = np.argsort(saved, kind="stable")
    if not len(order):
        return np.full(len(keys), -1)
    at = order[np.minimum(np.searchsorted(saved[order], keys), len(order) - 1)]
    return np.where(saved[at] == keys, at, -1)


def _require_valid(ratings: FoldedRatings) -> None:
    """Raise ValueError for arrays that mlens doesn't write."""
    types = {"starts": "i8", "movie": "i4", "rating": "f4", "fold": "i1", "movie_keys": "u8", "text_keys": "u8"}
    for name, kind in types.items():
        if getattr(ratings, name).ndim != 1 or getattr(ratings, name).dtype != np.dtype(kind):
            raise ValueError(f"{name} has another shape or type")
    starts, movie, fold, movies = ratings.starts, ratings.movie, ratings.fold, len(ratings.movie_keys)
    valid = len(starts) == len(fold) + 1 and starts[0] == 0 and starts[-1] == len(movie) == len(ratings.rating)
    valid = valid and (np.diff(starts) >= 0).all() and len(ratings.text_keys) == movies
    valid = valid and ((movie >= 0) & (movie < movies)).all() and ((fold >= 0) & (fold < FOLDS)).all()
    if not (valid and np.isfinite(ratings.rating).all()):
        raise ValueError("its lists don't match")


def fit_similarity(by: str, table: RatingTable, trained: np.ndarray) -> Similarity:
    """Fit the similarity of the table's movies.

    by: `text` or `ratings`
    trained: [n] bool, which ratings of `table` are training ratings
    """
    return TextSimilarity.fit(table) if by == "text" else RatingSimilarity.fit(table, trained)


def save_similarity(similarity: Similarity, folder: Path) -> None:
    """Write what `load_similarity` reads."""
    arrays: dict[str, Any] = similarity.arrays()
    atomic_write(folder / FILE, lambda stream: np.savez_compressed(stream, **arrays))


def load_similarity(by: str, folder: Path, table: RatingTable) -> Similarity:
    """Load the similarity that was exported into `folder`, for the movies and users of `table`.

    Raises UserError where the file is missing or damaged.
    """
    file = folder / FILE
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return (TextSimilarity if by == "text" else RatingSimilarity).from_arrays(arrays, table)
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing: the model's history strategy needs it") from error
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{file} can't be read: {first_line(error)}. Copy it again from the run") from error


def require_by(by: str) -> None:
    """Raise UserError unless `by` is one of BY."""
    require_choice("history.by", by, BY)
