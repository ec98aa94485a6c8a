"""Questions whose answers stand in a data set's files and can't be known without them.

A model that has read the files of a data set may repeat them: which title stands beside which id, which rating beside
which user and movie (Di Palma et al., "Do LLMs Memorize Recommendation Datasets? A Preliminary Study on MovieLens-1M",
2025, ask so). How probable an answer is by itself says nothing: famous titles and 4.0 are probable everywhere. So the
answer of a question stays, and the id before it is changed: without memory the true id is the best one as often as any
other.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import numpy as np

from mlens.data import draws
from mlens.data.table import RatingTable

# How many lines show the form of the file, and how many ids each answer is tried with, the true one among them.
EXAMPLES = 8
CHOICES = 10


@dataclass(frozen=True)
class Questions:
    """Of one kind. examples: lines of the file, the same before every question; beginnings: for each question the
    beginnings of CHOICES lines, the true one first; answers: what the true line goes on with."""

    kind: str
    examples: str
    beginnings: tuple[tuple[str, ...], ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Form:
    """How a release writes its lines. movie_mark, rating_mark: between a line's fields; whole: ratings are whole
    numbers where they can be (`4`), else `4.0`."""

    movie_mark: str
    rating_mark: str
    whole: bool

    def rating(self, rating: float) -> str:
        return f"{rating:g}" if self.whole else str(float(rating))

    def title(self, title: str) -> str:
        """Quoted as csv does where the fields are separated by commas."""
        if self.movie_mark != ",":
            return title
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow([title])
        return line.getvalue()


# By the names of the sources; all others write csv.
FORMS = {"MovieLens100k": Form("|", "\t", True), "MovieLensDat": Form("::", "::", True)}
CSV = Form(",", ",", False)


def title_questions(table: RatingTable, form: Form, count: int, seed: int) -> Questions:
    """`id,` and then the title, with the ids of movies of the same year: ids and years often grow together, so that the
    examples alone would tell ids of another time. Years with fewer than CHOICES movies are left out."""
    ids, titles = table.movies["id"], table.movies["title"]
    year = titles.str.extract(r"\((\d{4})\)$").fill_null("").to_numpy()
    words = draws.each(draws.PROBE, seed, movie=table.movie_keys)
    order = np.argsort(words, kind="stable")
    shown, asked = order[:EXAMPLES], order[EXAMPLES:]
    beginnings, answers = [], []
    for movie in asked:
        others = asked[(year[asked] == year[movie]) & (asked != movie)]
        if year[movie] == "" or len(others) < CHOICES - 1:
            continue
        beginnings.append(tuple(f"{ids[int(m)]}{form.movie_mark}" for m in (movie, *_drawn(others, words, movie))))
        answers.append(form.title(titles[int(movie)]))
        if len(answers) == count:
            break
    lines = [f"{ids[int(m)]}{form.movie_mark}{form.title(titles[int(m)])}\n" for m in shown]
    return Questions("title", "".join(lines), tuple(beginnings), tuple(answers))


def _drawn(others: np.ndarray, words: np.ndarray, own: int) -> np.ndarray:
    """[CHOICES - 1] of `others`, drawn for `own`; all are places in `words`, a word for each movie or user."""
    return others[np.argsort(draws.mixed(words[others], words[own]), kind="stable")[: CHOICES - 1]]


def rating_questions(table: RatingTable, form: Form, count: int, seed: int) -> Questions:
    """`user,movie,` and then the rating, with the ids of users who didn't rate the movie so. No user stands in two
    lines, so that nothing can be learnt about one from the examples."""
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
