"""Which target is looked at, and why a rating is a training, validation or test rating."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl

from mlens.data.rating_table import RatingTable
from mlens.data.split import STAGES, TEST, TRAIN, VAL, Split
from mlens.data.stage import Stage
from mlens.errors import UserError

# Ids, and stretches of places, that an error quotes.
QUOTED = 6


@dataclass(frozen=True)
class TargetQuery:
    """Raw ids as they were typed. t: the place among the user's ratings in time order, from 0; with neither t nor movie
    it is the user's last target of `stage`, which is the last of test, val, train that has one where it isn't given."""

    user: str
    t: int | None = None
    movie: str | None = None
    stage: str | None = None


def find_target(
    table: RatingTable,
    roles: np.ndarray,
    split: Split,
    stages: Mapping[str, Stage],
    query: TargetQuery,
    max_eval_users: int | None = None,
) -> tuple[str, int]:
    """The name of its stage, and its place among that stage's targets. max_eval_users: evaluation.max_users of these
    stages. Raises UserError, which tells what there is."""
    user = _find_id(table.users["id"], query.user, "user", "users")
    first, stop = int(table.user_offsets[user]), int(table.user_offsets[user + 1])
    own = roles[first:stop]
    if query.stage not in (None, *STAGES):
        raise UserError(f"stage={query.stage}: the stages are {', '.join(STAGES)}")
    if query.t is not None and query.movie is not None:
        raise UserError("give t or movie, not both")
    if query.t is not None:
        place = query.t
        if not 0 <= place < len(own):
            raise UserError(f"t={place}: user {query.user} has {len(own)} ratings, {_told_roles(own)}")
    elif query.movie is not None:
        place = _place_of_movie(table, query, np.asarray(table.movie[first:stop]))
    else:
        return _last_target(table, stages, user, own, query, max_eval_users)
    role = STAGES[own[place]]
    if query.stage not in (None, role):
        raise UserError(f"t={place} of user {query.user} is a {role} rating: {_told_roles(own)}")
    targets = stages[role].targets if role in stages else np.zeros(0, dtype=np.int64)
    i = int(np.searchsorted(targets, first + place))
    if i == len(targets) or targets[i] != first + place:
        if role != STAGES[TRAIN]:
            raise UserError(_not_evaluated(table, stages, role, query, max_eval_users))
        raise UserError(
            f"t={place} of user {query.user} is a train rating, and no target: split.max_train_targets_per_user="
            f"{split.max_train_targets_per_user} drew others of this user (it still serves as history)"
        )
    return role, i


def _find_id(ids: pl.Series, query: str, one: str, many: str) -> int:
    found = (ids.cast(pl.String) == query).arg_true()
    if not len(found):
        some = ", ".join(str(known) for known in ids.head(QUOTED))
        raise UserError(f"{one}={query} isn't in the data, which have {len(ids):,} {many}: {some}, …")
    return int(found[0])


def _place_of_movie(table: RatingTable, query: TargetQuery, movies: np.ndarray) -> int:
    assert query.movie is not None
    movie = _find_id(table.movies["id"], query.movie, "movie", "movies")
    places = np.flatnonzero(movies == movie)
    if len(places) == 1:
        return int(places[0])
    title = table.movies["title"][movie]
    if not len(places):
        raise UserError(f"user {query.user} has not rated movie {query.movie}, {title}")
    told = " or ".join(f"t={place}" for place in places[:QUOTED])
    raise UserError(f"user {query.user} has rated movie {query.movie}, {title}, {len(places)} times: give {told}")


def _last_target(
    table: RatingTable,
    stages: Mapping[str, Stage],
    user: int,
    own: np.ndarray,
    query: TargetQuery,
    max_eval_users: int | None,
) -> tuple[str, int]:
    for name in reversed(STAGES) if query.stage is None else (query.stage,):
        if name in stages and (stages[name].user == user).any():
            return name, int(np.flatnonzero(stages[name].user == user)[-1])
    if query.stage is not None and query.stage != STAGES[TRAIN] and (own == STAGES.index(query.stage)).any():
        raise UserError(_not_evaluated(table, stages, query.stage, query, max_eval_users))
    raise UserError(f"user {query.user} has no {query.stage or ''} target".replace("  ", " ") + f": {_told_roles(own)}")


def _not_evaluated(
    table: RatingTable, stages: Mapping[str, Stage], stage: str, query: TargetQuery, max_eval_users: int | None
) -> str:
    """Why a user with ratings of this stage has no target in it, and what to do."""
    drawn = np.unique(stages[stage].user)
    some = ", ".join(str(table.users["id"][int(user)]) for user in drawn[:QUOTED]) + ", …" * (len(drawn) > QUOTED)
    return (
        f"user {query.user} isn't among the evaluated users: evaluation.max_users={max_eval_users} took a sample. Look "
        f"at a user of the sample ({some}), at a training rating (stage=train), or, without RUN, set "
        "evaluation.max_users=null"
    )


def _told_roles(roles: np.ndarray) -> str:
    """
    >>> _told_roles(np.array([0, 0, 0, 1, 2]))
    't=0–2 train, t=3 val, t=4 test'
    """
    ends = np.append(np.flatnonzero(roles[1:] != roles[:-1]), len(roles) - 1)
    firsts = np.append(0, ends[:-1] + 1)
    told = [
        (f"t={first} " if first == last else f"t={first}–{last} ") + STAGES[roles[first]]
        for first, last in zip(firsts, ends, strict=True)
    ]
    return ", ".join(told if len(told) <= QUOTED else [*told[:QUOTED], "…"])


def why_role(table: RatingTable, roles: np.ndarray, split: Split, rating: int) -> str:
    """Why the split made the rating (an index into the table) what it is, in words."""
    user, role = int(table.user[rating]), STAGES[roles[rating]]
    first, stop = int(table.user_offsets[user]), int(table.user_offsets[user + 1])
    n = stop - first
    train, val, test = (int((roles[first:stop] == name).sum()) for name in (TRAIN, VAL, TEST))
    if n < split.min_ratings:
        return f"the user has {n} ratings, fewer than split.min_ratings={split.min_ratings}: all are training"
    counts = f"{train} training, {val} validation, {test} test"
    if split.method == "temporal":
        return f"the user's {n} ratings in time order are cut into {counts} (split=temporal)"
    if split.method == "leave_last":
        return f"the user's last rating is test, the one before it validation: {counts} (split=leave_last)"
    if split.method == "random":
        return f"drawn: {counts} of the user's {n} ratings (split=random, split.seed={split.seed})"
    if split.method == "user":
        return f"all {n} ratings of a drawn user are {role} (split=user, split.seed={split.seed})"
    cuts = [
        f"{STAGES[name]} from {told_time(int(table.timestamp[roles == name].min()))} on"
        for name in (VAL, TEST)
        if (roles == name).any()
    ]
    return f"one time cuts all users: {', '.join(['training', *cuts])} (split=global_time)"


def told_time(timestamp: int) -> str:
    """
    >>> told_time(1000000000)
    '2001-09-09 01:46:40'
    """
    try:
        return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):  # no year of the calendar: an order is all that it says
        return str(timestamp)
