"""Make questions that only a model that has memorised a data set's files can answer.

A model that was trained on the files of a data set may reproduce them: which title has which id, which rating belongs
to which user and movie (Di Palma et al., "Do LLMs Memorize Recommendation Datasets? A Preliminary Study on
MovieLens-1M", 2025, ask such questions). The probability of an answer alone is no evidence: famous titles and 4.0 are
probable after any id. So the answer of a question is fixed, and the id before it is varied: without memorisation, the
true id ranks first no more often than any other.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import numpy as np

from mlens.data import draws
from mlens.data.rating_table import RatingTable

# How many example lines show the format of the file, and with how many ids, the true one included, an answer is scored.
EXAMPLES = 8
CHOICES = 10


@dataclass(frozen=True)
class Questions:
    """Questions of one kind.

    kind: what they ask for.
    examples: lines of the file, the same before every question.
    beginnings: for each question the beginnings of CHOICES lines, the true one first.
    answers: for each question the rest of the true line.
    """

    kind: str
    examples: str
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
    return Questions("title", "".join(lines), tuple(beginnings), tuple(answers))


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
    return Questions("rating", "".join(lines), tuple(beginnings), tuple(answers))
