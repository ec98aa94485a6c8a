"""Make questions that only a model that has memorised a data set's files can answer.

A model that was trained on the files of a data set may reproduce them: which title has which id, which rating belongs
to which user and movie (Di Palma et al., "Do LLMs Memorize Recommendation Datasets? A Preliminary Study on
MovieLens-1M", 2025, arXiv 2505.10212, ask such questions, those about ratings after other lines of the user). The
probability of an answer alone is no evidence: famous titles and 4.0 are probable after any id. So the answer of a
question is fixed, and the id before it is varied: without memorisation, the true id ranks first no more often than any
other.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import numpy as np
import polars as pl

from mlens.data import draws
from mlens.data.rating_table import RatingTable

# How many lines of the file precede a question, and with how many ids, the true one included, an answer is scored.
EXAMPLES = 8
CHOICES = 10


@dataclass(frozen=True)
class Questions:
    """Questions of one kind.

    kind: what they ask for, and how.
    contexts: for each question the EXAMPLES lines of the file that precede it.
    beginnings: for each question the beginnings of CHOICES lines, the true one first.
    answers: for each question the rest of the true line.
    """

    kind: str
    contexts: tuple[str, ...]
    beginnings: tuple[tuple[str, ...], ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class LineFormat:
    """How a release writes its lines.

    movie_mark: the separator of a movie's fields.
    rating_mark: the separator of a rating's fields.
    integers: integral ratings are written as `4`, else as `4.0`.
    """

    movie_mark: str
    rating_mark: str
    integers: bool

    def rating(self, rating: float) -> str:
        """Format a rating."""
        return f"{rating:g}" if self.integers else str(float(rating))

    def title(self, title: str) -> str:
        """Format a title, with the quotes of CSV where fields are separated by commas."""
        if self.movie_mark != ",":
            return title
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow([title])
        return line.getvalue()


# By the class name of the source; all others have CSV files.
FORMATS = {"MovieLens100k": LineFormat("|", "\t", True), "MovieLensDat": LineFormat("::", "::", True)}
CSV = LineFormat(",", ",", False)


def title_questions(table: RatingTable, form: LineFormat, count: int, seed: int) -> Questions:
    """Make questions with `id,` as the beginning and the title as the answer.

    The other ids are those of movies of the same year: ids often grow with the year, so that the examples alone would
    rule out ids of other years. Years with fewer than CHOICES movies are left out.
    """
    ids, titles = table.movies["id"], table.movies["title"]
    year = titles.str.extract(r"\((\d{4})\)$").fill_null("").to_numpy()
    words = draws.each(draws.PROBE, seed, movie=table.movie_keys)
    order = np.argsort(words, kind="stable")
    examples, movies = order[:EXAMPLES], order[EXAMPLES:]
    beginnings, answers = [], []
    for movie in movies:
        others = movies[(year[movies] == year[movie]) & (movies != movie)]
        if year[movie] == "" or len(others) < CHOICES - 1:
            continue
        beginnings.append(tuple(f"{ids[int(m)]}{form.movie_mark}" for m in (movie, *_drawn(others, words, movie))))
        answers.append(form.title(titles[int(movie)]))
        if len(answers) == count:
            break
    lines = [f"{ids[int(m)]}{form.movie_mark}{form.title(titles[int(m)])}\n" for m in examples]
    return Questions("title by id", ("".join(lines),) * len(answers), tuple(beginnings), tuple(answers))


def _drawn(others: np.ndarray, words: np.ndarray, true: int) -> np.ndarray:
    """Draw [CHOICES - 1] of `others` for the question about `true`; all index `words`, one for each movie or user."""
    return others[np.argsort(draws.mixed(words[others], words[true]), kind="stable")[: CHOICES - 1]]


def rating_questions(table: RatingTable, form: LineFormat, count: int, seed: int) -> Questions:
    """Make questions with `user,movie,` as the beginning and the rating as the answer.

    The other ids are those of users who didn't give the movie this rating. No user occurs in two lines, so that the
    examples carry no information about a question's users.
    """
    users, movies = table.users["id"], table.movies["id"]
    keys = table.user_keys
    words = draws.each(draws.PROBE, seed, keys, epoch=1)
    order = np.argsort(words, kind="stable")
    beginnings, answers, lines = [], [], []
    for place, user in enumerate(order):
        start, stop = table.user_offsets[user : user + 2]
        at = int(start + draws.words(1, draws.PROBE, seed, keys[user], epoch=2)[0] % np.uint64(stop - start))
        movie, rating = int(table.movie[at]), float(table.rating[at])
        rest = f"{form.rating_mark}{movies[movie]}{form.rating_mark}"
        if place < EXAMPLES:
            lines.append(f"{users[int(user)]}{rest}{form.rating(rating)}\n")
            continue
        alike = table.user[(table.movie == movie) & (table.rating == table.rating[at])]
        others = np.setdiff1d(order[EXAMPLES:], alike)
        if len(others) < CHOICES - 1:
            continue
        beginnings.append(tuple(f"{users[int(u)]}{rest}" for u in (user, *_drawn(others, words, user))))
        answers.append(form.rating(rating))
        if len(answers) == count:
            break
    return Questions("rating by id", ("".join(lines),) * len(answers), tuple(beginnings), tuple(answers))


def context_questions(table: RatingTable, form: LineFormat, count: int, seed: int) -> Questions:
    """Make questions with `user,movie,` as the beginning and the rating as the answer, after other lines of the user.

    A user's lines, in the order of the movies' ids as in MovieLens' CSV files, are cut into excerpts of EXAMPLES +
    CHOICES lines. The first lines of an excerpt are the context, and the movies of the others the choices; the answer
    is a rating that only one of the choices has. Each user is asked once; users without such an excerpt, and movies
    that a user rated several times, are left out.

    The choices are neighbours because ids tell something about ratings: old and well-known movies have small ones.
    Excerpt and answer are drawn by the ratings that an excerpt has, whichever choices have them. So the true movie is
    at each place among the ten equally often, as far as ratings of neighbours are exchangeable, and a model that
    prefers small ids, or the middle ones, is right by chance. With the nearest neighbours of a movie that is drawn
    first, the true id would be the median.

    A model that recognises movies by their ids and knows how they are liked does better than chance without any rating
    memorised: on ml-latest-small the mean ratings of other users alone would recall twice as many.
    """
    users, movies, keys = table.users["id"], table.movies["id"], table.user_keys
    place, mark, lines = _places(movies), form.rating_mark, EXAMPLES + CHOICES
    contexts, beginnings, answers = [], [], []
    for user in np.argsort(draws.each(draws.PROBE, seed, keys, epoch=3), kind="stable"):
        start, stop = table.user_offsets[user : user + 2]
        _, first, times = np.unique(place[table.movie[start:stop]], return_index=True, return_counts=True)
        by_id = start + first[times == 1]
        excerpts = by_id[: len(by_id) // lines * lines].reshape(-1, lines)
        candidates = [(excerpt, true) for excerpt in excerpts for true in _single(table.rating[excerpt])]
        if not candidates:
            continue
        word = draws.words(1, draws.PROBE, seed, keys[user], epoch=4)[0]
        excerpt, true = candidates[int(word % np.uint64(len(candidates)))]
        begun = [f"{users[int(user)]}{mark}{movies[int(movie)]}{mark}" for movie in table.movie[excerpt]]
        ratings = [form.rating(float(rating)) for rating in table.rating[excerpt]]
        contexts.append("".join(f"{begun[i]}{ratings[i]}\n" for i in range(EXAMPLES)))
        beginnings.append((begun[true], *(begun[i] for i in range(EXAMPLES, lines) if i != true)))
        answers.append(ratings[true])
        if len(answers) == count:
            break
    return Questions("rating by id in context", tuple(contexts), tuple(beginnings), tuple(answers))


def _places(ids: pl.Series) -> np.ndarray:
    """Return the place of each id in their order: [n]. Ids are ordered as numbers if all are, else as texts."""
    numbers = ids.cast(pl.Int64, strict=False)
    return (ids if numbers.has_nulls() else numbers).rank("ordinal").to_numpy()


def _single(ratings: np.ndarray) -> np.ndarray:
    """Return, by ascending rating, the places in an excerpt of the choices whose rating no other choice has."""
    _, first, times = np.unique(ratings[EXAMPLES:], return_index=True, return_counts=True)
    return EXAMPLES + first[times == 1]
