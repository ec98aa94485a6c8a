"""The audit of what targets are shown: the histories that are drawn, what they share, and the tags above the target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from mlens.data.blocks import BLOCK, group_blocks
from mlens.data.table import RatingTable
from mlens.history.random import PerUser
from mlens.history.window import Windows
from mlens.packing.dataset import RatingDataset
from mlens.packing.leaks import Finder
from mlens.prompt.context import Context
from mlens.prompt.pieces import movie_texts

# How many targets of a stage are looked at: where the histories stand in arrays, where each is drawn when it is asked
# for, and with tags.
MOST, MOST_DRAWN, MOST_TAGGED = 200_000, 1_000, 500


@dataclass(frozen=True)
class Looked:
    """How much was looked at: prompts whose history was drawn, the ratings in them, pairs of neighbouring targets on a
    trunk, prompts whose tags were drawn."""

    prompts: int = 0
    ratings: int = 0
    shared: int = 0
    tagged: int = 0


def audit_shown(finder: Finder, dataset: RatingDataset, seed: int) -> Looked:
    """Find the kinds from `not_visible` on in KINDS among the targets of `dataset`, whose stage `audit_visible` has
    passed; of more than MOST (MOST_DRAWN where a history is drawn when it is asked for) in a sample by `seed`."""
    stage = dataset.stage
    shares = _audit_users_of_trunks(finder, dataset)
    targets = _sample(dataset, shares, seed)
    trunks = dataset.trunks(targets)
    # Neighbours on a trunk come one after the other; a beginning of a beginning is one too, so they prove it for all.
    order = np.argsort(trunks, kind="stable")
    targets, trunks = targets[order], trunks[order]
    ratings = shared = 0
    last: _Shown | None = None
    for block in group_blocks(stage.count[targets].astype(np.int64) + 1):
        drawn = _draw(dataset, targets[block], trunks[block])
        ratings += len(drawn.places)
        if not _audit_places(finder, dataset, drawn):
            last = None
        elif dataset.renderer.joins:
            _audit_sections(finder, dataset, drawn)
            pairs, last = _audit_beginnings(finder, dataset, drawn, last)
            shared += pairs
    return Looked(len(targets), ratings, shared, _audit_tags(finder, dataset, seed))


def _sample(dataset: RatingDataset, shares: bool, seed: int) -> np.ndarray:
    """Targets, ascending: all of them, or those of some users where targets share trunks (`shares`), or else some."""
    stage, n = dataset.stage, len(dataset)
    most = MOST if isinstance(dataset.selection, Windows | PerUser) else MOST_DRAWN
    if n <= most:
        return np.arange(n)
    random = np.random.default_rng(seed)
    if not shares:
        return np.sort(random.choice(n, most, replace=False))
    first = np.flatnonzero(np.append(True, stage.user[1:] != stage.user[:-1]))
    sizes = np.diff(first, append=n)
    order = random.permutation(len(first))
    users = np.sort(order[: 1 + int(np.searchsorted(np.cumsum(sizes[order]), most))])
    return np.concatenate([np.arange(first[u], first[u] + sizes[u]) for u in users])


@dataclass(frozen=True)
class _Drawn:
    """targets [t] of a stage and their trunks [t]; places [h] in what each may see, one target after the other, with
    offsets [t + 1]; of [h]: whose each is (into `targets`); ratings [h]: of the table."""

    targets: np.ndarray
    trunks: np.ndarray
    places: np.ndarray
    offsets: np.ndarray
    of: np.ndarray
    ratings: np.ndarray


@dataclass(frozen=True)
class _Shown:
    """A target of the stage, its trunk, and the ratings of the table that are shown for it."""

    target: int
    trunk: int
    ratings: np.ndarray


def _draw(dataset: RatingDataset, targets: np.ndarray, trunks: np.ndarray) -> _Drawn:
    stage = dataset.stage
    lists = [np.asarray(dataset.selection.chosen(t)) for t in targets.tolist()]
    lengths = np.array([len(places) for places in lists])
    places, of = np.concatenate(lists).astype(np.int64), np.repeat(np.arange(len(targets)), lengths)
    # A place that is in no list is told of, not looked up.
    at = stage.visible_offsets[stage.user[targets]][of] + places
    ratings = stage.visible[np.clip(at, 0, len(stage.visible) - 1)] if len(stage.visible) else at
    return _Drawn(targets, trunks, places, np.concatenate([[0], np.cumsum(lengths)]), of, ratings)


def _audit_places(finder: Finder, dataset: RatingDataset, drawn: _Drawn) -> bool:
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
    return not (outside.any() or unordered.any())


def _audit_sections(finder: Finder, dataset: RatingDataset, drawn: _Drawn) -> None:
    """Whether `sections`, which says how much of a trunk a target sees, is what its own lines take."""
    pieces, table, stage = dataset.renderer.pieces, dataset.table, dataset.stage
    lengths, counts = pieces.lengths, np.diff(drawn.offsets)
    lines = (
        lengths[pieces.movie[table.movie[drawn.ratings]]] + lengths[pieces.rating[table.rating_index[drawn.ratings]]]
    )
    ends, numbers = (np.concatenate([[0], np.cumsum(part)]) for part in (lines, lengths[pieces.number]))
    own = ends[drawn.offsets[1:]] - ends[drawn.offsets[:-1]] + numbers[counts] + lengths[pieces.header] * (counts > 0)
    told = dataset.selection.sections(drawn.targets)

    def example(t: int) -> str:
        name = finder.target(stage.name, stage.targets[drawn.targets[t]])
        return f"{name} sees {told[t]} tokens of a history whose {counts[t]} ratings take {own[t]}"

    finder.add("shared_tokens", told != own, example)


def _audit_beginnings(
    finder: Finder, dataset: RatingDataset, drawn: _Drawn, last: _Shown | None
) -> tuple[int, _Shown | None]:
    """Whether each history is the beginning of the next one on its trunk; those that show nothing share the task alone.
    last: of the target before these ones. Returns how many pairs there were, and the last of these."""
    stage, some = dataset.stage, np.flatnonzero(np.diff(drawn.offsets))
    if not len(some):
        return 0, last
    targets, trunk = drawn.targets[some], drawn.trunks[some]
    ratings, counts = drawn.ratings, np.diff(drawn.offsets)[some]
    if last is not None:
        targets, trunk = np.append(last.target, targets), np.append(last.trunk, trunk)
        ratings, counts = np.concatenate([last.ratings, ratings]), np.append(len(last.ratings), counts)
    ends = np.cumsum(counts)
    starts = ends - counts
    pairs = np.flatnonzero((trunk[1:] == trunk[:-1]) & (trunk[1:] >= 0))
    shown = counts[pairs]
    of = np.repeat(np.arange(len(pairs)), shown)
    place = np.arange(len(of)) - np.repeat(np.cumsum(shown) - shown, shown)
    own, theirs = starts[pairs][of] + place, np.minimum(starts[pairs + 1][of] + place, len(ratings) - 1)
    wrong = (place >= counts[pairs + 1][of]) | (ratings[theirs] != ratings[own])

    def example(pair: int) -> str:
        one, other = (finder.rating(stage.targets[targets[pairs[pair] + k]]) for k in (0, 1))
        missing = finder.rating(ratings[own[wrong & (of == pair)][0]])
        return f"the {stage.name} target {one} shares a trunk with {other}, which doesn't show {missing} there"

    finder.add("shared_lines", np.bincount(of[wrong], minlength=len(pairs)) > 0, example)
    return len(pairs), _Shown(int(targets[-1]), int(trunk[-1]), ratings[starts[-1] :])


def _audit_users_of_trunks(finder: Finder, dataset: RatingDataset) -> bool:
    """Whether equal numbers of trunks are one user's, for all targets; returns whether any target has a trunk."""
    stage, most, ascends = dataset.stage, -1, True
    for block in stage.user_blocks():
        trunks = dataset.trunks(np.arange(block.start, block.stop))
        first = np.flatnonzero(np.append(True, np.diff(stage.user[block])))
        least = np.minimum.reduceat(np.where(trunks < 0, np.iinfo(np.int64).max, trunks), first)
        so_far = np.maximum.accumulate(np.append(most, np.maximum.reduceat(trunks, first)))
        ascends &= bool((least > so_far[:-1]).all())
        most = int(so_far[-1])
    if ascends:  # users' numbers are apart, as ours are: no need to sort
        return most >= 0
    trunks = dataset.trunks(np.arange(len(dataset)))
    order = np.argsort(trunks, kind="stable")
    trunk, user = trunks[order], stage.user[order]
    shared = (trunk[1:] == trunk[:-1]) & (trunk[1:] >= 0) & (user[1:] != user[:-1])

    def example(i: int) -> str:
        one, other = (finder.rating(stage.targets[order[i + k]]) for k in (0, 1))
        return f"the {stage.name} target {one} shares a trunk with {other}"

    finder.add("shared_user", shared, example)
    return most >= 0


def _audit_tags(finder: Finder, dataset: RatingDataset, seed: int) -> int:
    """Whether the tags that may stand above a target are its user's, earlier, and of other movies: of all tags that the
    context has them right, and of a sample of targets what is really taken of them."""
    table, stage, context = dataset.table, dataset.stage, dataset.renderer.context
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
        turns, own_turns = context.turns(table, target, dataset.renderer.style.max_context), context.turn[own]
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
