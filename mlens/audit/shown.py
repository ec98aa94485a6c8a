"""The audit of what targets are shown: the histories that are drawn, and the tags above the target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from mlens.audit.leaks import Finder
from mlens.data.chunked import BLOCK, group_blocks
from mlens.data.rating_table import RatingTable
from mlens.packing.dataset import RatingDataset
from mlens.prompt.context import Context
from mlens.prompt.pieces import movie_texts

# How many targets of a stage are looked at: where the histories stand in arrays, where each is drawn when it is asked
# for, and with tags.
MOST, MOST_DRAWN, MOST_TAGGED = 200_000, 1_000, 500


@dataclass(frozen=True)
class Looked:
    """How much was looked at: prompts whose history was drawn, the ratings in them, prompts whose tags were drawn."""

    prompts: int = 0
    ratings: int = 0
    tagged: int = 0


def audit_shown(finder: Finder, dataset: RatingDataset, seed: int) -> Looked:
    """Find the kinds from `not_visible` on in KINDS among the targets of `dataset`, whose stage `audit_visible` has
    passed; of more than MOST (MOST_DRAWN where a history is drawn when it is asked for) in a sample by `seed`."""
    targets, stage = _sample(dataset, seed), dataset.stage
    ratings = 0
    for block in group_blocks(stage.count[targets].astype(np.int64) + 1):
        drawn = _draw(dataset, targets[block])
        ratings += len(drawn.places)
        _audit_places(finder, dataset, drawn)
    return Looked(len(targets), ratings, _audit_tags(finder, dataset, seed))


def _sample(dataset: RatingDataset, seed: int) -> np.ndarray:
    """Targets, ascending: all of them, or some."""
    most, n = MOST_DRAWN if dataset.histories.drawn else MOST, len(dataset)
    return np.arange(n) if n <= most else np.sort(np.random.default_rng(seed).choice(n, most, replace=False))


@dataclass(frozen=True)
class _Drawn:
    """targets [t] of a stage; places [h] in what each may see, one target after the other; of [h]: whose each is (into
    `targets`)."""

    targets: np.ndarray
    places: np.ndarray
    of: np.ndarray


def _draw(dataset: RatingDataset, targets: np.ndarray) -> _Drawn:
    lists = [dataset.histories.shown(t) for t in targets.tolist()]
    of = np.repeat(np.arange(len(targets)), [len(places) for places in lists])
    return _Drawn(targets, np.concatenate(lists).astype(np.int64), of)


def _audit_places(finder: Finder, dataset: RatingDataset, drawn: _Drawn) -> None:
    stage, places, of = dataset.stage, drawn.places, drawn.of
    outside = (places < 0) | (places >= stage.count[drawn.targets][of])
    unordered = np.zeros(len(places), dtype=bool)
    unordered[1:] = (of[1:] == of[:-1]) & (places[1:] <= places[:-1])

    def tell(kind: str, mark: np.ndarray) -> None:
        def example(t: int) -> str:
            i, place = drawn.targets[t], places[np.flatnonzero(mark & (of == t))[0]]
            name = finder.target(stage.name, stage.targets[i])
            return f"{name}, which may see the ratings 0 to {stage.count[i] - 1} of its list, shows {place}"

        finder.add(kind, np.bincount(of[mark], minlength=len(drawn.targets)) > 0, example)

    tell("not_visible", outside)
    tell("out_of_order", unordered)


def _audit_tags(finder: Finder, dataset: RatingDataset, seed: int) -> int:
    """Whether the tags that may stand above a target are its user's, earlier, and of other movies: of all tags that the
    context has them right, and of a sample of targets what is really taken of them."""
    table, stage, context = dataset.table, dataset.stage, dataset.renderer.template.context
    if context is None or context.time is None or table.tags is None:
        return 0
    user, movie, time = (table.tags[name].to_numpy() for name in ("user", "movie", "timestamp"))
    wrong = _wrong_tags(table, context, user, movie, time)
    finder.add("tags", wrong, lambda i: f"tag {i + 1} of {len(user)} in the table")
    if wrong.any():
        return 0
    offsets = np.searchsorted(user, np.arange(len(table.users) + 1))
    tagged = np.flatnonzero(np.diff(offsets)[stage.user] > 0)
    if len(tagged) > MOST_TAGGED:
        tagged = np.sort(np.random.default_rng(seed).choice(tagged, MOST_TAGGED, replace=False))
    later, own_movie = np.zeros(len(tagged), dtype=bool), np.zeros(len(tagged), dtype=bool)
    for k, i in enumerate(tagged):
        target = int(stage.targets[i])
        own = slice(offsets[stage.user[i]], offsets[stage.user[i] + 1])
        earlier, other = time[own] < table.timestamp[target], movie[own] != table.movie[target]
        turns, own_turns = context.turns(table, target, dataset.renderer.template.style.max_context), context.turn[own]
        allowed = np.isin(turns, own_turns[earlier & other])
        own_movie[k] = (~allowed & np.isin(turns, own_turns[~other])).any()
        later[k] = (~allowed & ~np.isin(turns, own_turns[~other])).any()
    for kind, leaks in (("later_tag", later), ("target_tag", own_movie)):
        finder.add(kind, leaks, lambda k: f"{finder.target(stage.name, stage.targets[tagged[k]])} sees one")
    return len(tagged)


def _wrong_tags(
    table: RatingTable, context: Context, user: np.ndarray, movie: np.ndarray, time: np.ndarray
) -> np.ndarray:
    """[tags] bool: where `context` has another user, movie, time or text than the table, or they are not in order."""
    assert context.time is not None and context.movie is not None and table.tags is not None
    whose = np.searchsorted(user, np.arange(len(table.users) + 1))
    columns = len(context.turn) == len(context.time) == len(context.movie) == len(user)
    if not columns or not np.array_equal(context.owner_offsets, whose):
        return np.ones(max(1, len(user)), dtype=bool)
    wrong = (context.time != time) | (context.movie != movie)
    wrong[1:] |= user[1:] < user[:-1]
    wrong[1:] |= (user[1:] == user[:-1]) & (time[1:] < time[:-1])
    texts, movies = pl.Series(context.texts, dtype=pl.String), pl.Series(movie_texts(table), dtype=pl.String)
    for block in _blocks(len(user)):
        said = pl.DataFrame({"movie": movies.gather(movie[block]), "tag": table.tags["tag"][block]})
        text = said.select(pl.concat_str("movie", pl.lit(": "), "tag")).to_series()
        wrong[block] |= (text != texts.gather(context.turn[block])).to_numpy()
    return wrong


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, min(n, start + BLOCK)) for start in range(0, n, BLOCK))
