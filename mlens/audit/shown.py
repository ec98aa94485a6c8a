"""The audit of prompts: the histories shown to targets, and the tags above each target."""

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

# Maximum number of targets that are checked in a stage: with histories in arrays, with histories drawn one by one on
# access, and with tags.
MAX_TARGETS, MAX_DRAWN, MAX_TAGGED = 200_000, 1_000, 500


@dataclass(frozen=True)
class ShownCoverage:
    """The extent of the audit of a stage's prompts.

    prompts: whose history was checked.
    ratings: in these histories.
    tagged: prompts whose tags were checked.
    """

    prompts: int = 0
    ratings: int = 0
    tagged: int = 0


def audit_shown(finder: Finder, dataset: RatingDataset, seed: int) -> ShownCoverage:
    """Find leaks of the kinds from `not_visible` on in KINDS among the targets of `dataset`.

    dataset: its stage has passed `audit_visible`. Of more than MAX_TARGETS targets (MAX_DRAWN if each history is drawn
    on access) a sample is checked.
    seed: of this sample.
    """
    targets, stage = _sample(dataset, seed), dataset.stage
    ratings = 0
    for block in group_blocks(stage.count[targets].astype(np.int64) + 1):
        drawn = _draw(dataset, targets[block])
        ratings += len(drawn.indices)
        _audit_indices(finder, dataset, drawn)
    return ShownCoverage(len(targets), ratings, _audit_tags(finder, dataset, seed))


def _sample(dataset: RatingDataset, seed: int) -> np.ndarray:
    """Return all targets, or a sample of them, in ascending order."""
    maximum, n = MAX_DRAWN if dataset.histories.drawn else MAX_TARGETS, len(dataset)
    return np.arange(n) if n <= maximum else np.sort(np.random.default_rng(seed).choice(n, maximum, replace=False))


@dataclass(frozen=True)
class _Drawn:
    """The histories of some targets, concatenated.

    targets: [t] targets of a stage.
    indices: [h] shown ratings, as indices into the list that each target may see.
    owner: [h] index into `targets`.
    """

    targets: np.ndarray
    indices: np.ndarray
    owner: np.ndarray


def _draw(dataset: RatingDataset, targets: np.ndarray) -> _Drawn:
    lists = [dataset.histories.shown(t) for t in targets.tolist()]
    owner = np.repeat(np.arange(len(targets)), [len(indices) for indices in lists])
    return _Drawn(targets, np.concatenate(lists).astype(np.int64), owner)


def _audit_indices(finder: Finder, dataset: RatingDataset, drawn: _Drawn) -> None:
    stage, indices, owner = dataset.stage, drawn.indices, drawn.owner
    outside = (indices < 0) | (indices >= stage.count[drawn.targets][owner])
    unordered = np.zeros(len(indices), dtype=bool)
    unordered[1:] = (owner[1:] == owner[:-1]) & (indices[1:] <= indices[:-1])

    def add(kind: str, mask: np.ndarray) -> None:
        def example(t: int) -> str:
            i, index = drawn.targets[t], indices[np.flatnonzero(mask & (owner == t))[0]]
            name = finder.target(stage.name, stage.targets[i])
            return f"{name}, which may see the ratings 0 to {stage.count[i] - 1} of its list, shows {index}"

        finder.add(kind, np.bincount(owner[mask], minlength=len(drawn.targets)) > 0, example)

    add("not_visible", outside)
    add("out_of_order", unordered)


def _audit_tags(finder: Finder, dataset: RatingDataset, seed: int) -> int:
    """Verify that the tags above a target are its user's, earlier, and of other movies.

    Compares the context with all tags of the table, and the turns of a sample of targets with the tags they may see.
    Returns the size of this sample.
    """
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
    if len(tagged) > MAX_TAGGED:
        tagged = np.sort(np.random.default_rng(seed).choice(tagged, MAX_TAGGED, replace=False))
    later, same_movie = np.zeros(len(tagged), dtype=bool), np.zeros(len(tagged), dtype=bool)
    for k, i in enumerate(tagged):
        target = int(stage.targets[i])
        tags = slice(offsets[stage.user[i]], offsets[stage.user[i] + 1])
        earlier, other = time[tags] < table.timestamp[target], movie[tags] != table.movie[target]
        turns = context.turns(table, target, dataset.renderer.template.style.max_context)
        user_turns = context.turn[tags]
        allowed = np.isin(turns, user_turns[earlier & other])
        same_movie[k] = (~allowed & np.isin(turns, user_turns[~other])).any()
        later[k] = (~allowed & ~np.isin(turns, user_turns[~other])).any()
    for kind, leaks in (("later_tag", later), ("target_tag", same_movie)):
        finder.add(kind, leaks, lambda k: f"{finder.target(stage.name, stage.targets[tagged[k]])} sees one")
    return len(tagged)


def _wrong_tags(
    table: RatingTable, context: Context, user: np.ndarray, movie: np.ndarray, time: np.ndarray
) -> np.ndarray:
    """Return [tags] bool: where `context` has another user, movie, time or text than the table, or another order."""
    assert context.time is not None and context.movie is not None and table.tags is not None
    owner_offsets = np.searchsorted(user, np.arange(len(table.users) + 1))
    columns = len(context.turn) == len(context.time) == len(context.movie) == len(user)
    if not columns or not np.array_equal(context.owner_offsets, owner_offsets):
        return np.ones(max(1, len(user)), dtype=bool)
    wrong = (context.time != time) | (context.movie != movie)
    wrong[1:] |= user[1:] < user[:-1]
    wrong[1:] |= (user[1:] == user[:-1]) & (time[1:] < time[:-1])
    texts, movies = pl.Series(context.texts, dtype=pl.String), pl.Series(movie_texts(table), dtype=pl.String)
    for block in _blocks(len(user)):
        rows = pl.DataFrame({"movie": movies.gather(movie[block]), "tag": table.tags["tag"][block]})
        text = rows.select(pl.concat_str("movie", pl.lit(": "), "tag")).to_series()
        wrong[block] |= (text != texts.gather(context.turn[block])).to_numpy()
    return wrong


def _blocks(n: int) -> Iterator[slice]:
    """Yield slices of at most BLOCK that cover 0 to n."""
    return (slice(start, min(n, start + BLOCK)) for start in range(0, n, BLOCK))
