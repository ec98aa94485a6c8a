"""Finds the target to inspect, and explains why a rating is a training, validation or test rating."""

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

# Maximum number of ids or ranges of t that an error quotes.
QUOTED = 6


@dataclass(frozen=True)
class TargetQuery:
    """A query for one target: by t, by movie, or (with neither) the user's last target of `stage`.

    user: raw id, as typed.
    t: index among the user's ratings in time order, from 0.
    movie: raw id, as typed.
    stage: train, val or test; None means the last of these in which the user has a target.
    """

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
    """Return the target's stage and its index among that stage's targets.

    max_eval_users: evaluation.max_users of these stages.

    Raises UserError if there is no such target; the message lists what exists.
    """
    user = _find_id(table.users["id"], query.user, "user", "users")
    first, stop = int(table.user_offsets[user]), int(table.user_offsets[user + 1])
    user_roles = roles[first:stop]
    if query.stage not in (None, *STAGES):
        raise UserError(f"stage={query.stage}: the stages are {', '.join(STAGES)}")
    if query.t is not None and query.movie is not None:
        raise UserError("give t or movie, not both")
    if query.t is not None:
        t = query.t
        if not 0 <= t < len(user_roles):
            raise UserError(f"t={t}: user {query.user} has {len(user_roles)} ratings, {_format_roles(user_roles)}")
    elif query.movie is not None:
        t = _find_movie(table, query, np.asarray(table.movie[first:stop]))
    else:
        return _last_target(table, stages, user, user_roles, query, max_eval_users)
    role = STAGES[user_roles[t]]
    if query.stage not in (None, role):
        raise UserError(f"t={t} of user {query.user} is a {role} rating: {_format_roles(user_roles)}")
    targets = stages[role].targets if role in stages else np.zeros(0, dtype=np.int64)
    i = int(np.searchsorted(targets, first + t))
    if i == len(targets) or targets[i] != first + t:
        if role != STAGES[TRAIN]:
            raise UserError(_not_evaluated(table, stages, role, query, max_eval_users))
        raise UserError(
            f"t={t} of user {query.user} is a train rating, and no target: split.max_train_targets_per_user="
            f"{split.max_train_targets_per_user} drew others of this user (it still serves as history)"
        )
    return role, i


def _find_id(ids: pl.Series, query: str, one: str, many: str) -> int:
    """Return the index of a raw id. Raises UserError, which calls it `one` of `many`, if there is none."""
    found = (ids.cast(pl.String) == query).arg_true()
    if not len(found):
        some = ", ".join(str(known) for known in ids.head(QUOTED))
        raise UserError(f"{one}={query} isn't in the data, which have {len(ids):,} {many}: {some}, …")
    return int(found[0])


def _find_movie(table: RatingTable, query: TargetQuery, movies: np.ndarray) -> int:
    """Return the t of the user's rating of the queried movie; movies: [ratings of the user]."""
    assert query.movie is not None
    movie = _find_id(table.movies["id"], query.movie, "movie", "movies")
    found = np.flatnonzero(movies == movie)
    if len(found) == 1:
        return int(found[0])
    title = table.movies["title"][movie]
    if not len(found):
        raise UserError(f"user {query.user} has not rated movie {query.movie}, {title}")
    options = " or ".join(f"t={t}" for t in found[:QUOTED])
    raise UserError(f"user {query.user} has rated movie {query.movie}, {title}, {len(found)} times: give {options}")


def _last_target(
    table: RatingTable,
    stages: Mapping[str, Stage],
    user: int,
    user_roles: np.ndarray,
    query: TargetQuery,
    max_eval_users: int | None,
) -> tuple[str, int]:
    """Return stage and index of the user's last target of the queried stage."""
    for name in reversed(STAGES) if query.stage is None else (query.stage,):
        if name in stages and (stages[name].user == user).any():
            return name, int(np.flatnonzero(stages[name].user == user)[-1])
    if query.stage is not None and query.stage != STAGES[TRAIN] and (user_roles == STAGES.index(query.stage)).any():
        raise UserError(_not_evaluated(table, stages, query.stage, query, max_eval_users))
    kind = f"{query.stage} target" if query.stage else "target"
    raise UserError(f"user {query.user} has no {kind}: {_format_roles(user_roles)}")


def _not_evaluated(
    table: RatingTable, stages: Mapping[str, Stage], stage: str, query: TargetQuery, max_eval_users: int | None
) -> str:
    """Return why a user with ratings of this stage has no target in it, and what to do."""
    drawn = np.unique(stages[stage].user)
    some = ", ".join(str(table.users["id"][int(user)]) for user in drawn[:QUOTED]) + ", …" * (len(drawn) > QUOTED)
    return (
        f"user {query.user} isn't among the evaluated users: evaluation.max_users={max_eval_users} took a sample. Look "
        f"at a user of the sample ({some}), at a training rating (stage=train), or, without RUN, set "
        "evaluation.max_users=null"
    )


def _format_roles(roles: np.ndarray) -> str:
    """List the ranges of t with the same role.

    >>> _format_roles(np.array([0, 0, 0, 1, 2]))
    't=0–2 train, t=3 val, t=4 test'
    """
    ends = np.append(np.flatnonzero(roles[1:] != roles[:-1]), len(roles) - 1)
    firsts = np.append(0, ends[:-1] + 1)
    ranges = [
        (f"t={first} " if first == last else f"t={first}–{last} ") + STAGES[roles[first]]
        for first, last in zip(firsts, ends, strict=True)
    ]
    return ", ".join(ranges if len(ranges) <= QUOTED else [*ranges[:QUOTED], "…"])


def explain_role(table: RatingTable, roles: np.ndarray, split: Split, rating: int) -> str:
    """Explain in words why the split gave the rating (an index into the table) its role."""
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
        f"{STAGES[name]} from {format_time(int(table.timestamp[roles == name].min()))} on"
        for name in (VAL, TEST)
        if (roles == name).any()
    ]
    return f"one time cuts all users: {', '.join(['training', *cuts])} (split=global_time)"


def format_time(timestamp: int) -> str:
    """Format seconds since 1970 as a UTC time, or as the number if no calendar date represents it.

    >>> format_time(1000000000)
    '2001-09-09 01:46:40'
    """
    try:
        return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):  # such timestamps only give an order
        return str(timestamp)
