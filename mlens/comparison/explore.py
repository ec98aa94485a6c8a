"""explore.html, the report's second page: for one rating to predict, what each arm was shown and what it predicted."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlens.comparison.figures import INK, look_of_arm
from mlens.comparison.finished_runs import Arm, Run
from mlens.comparison.pairing import Paired
from mlens.comparison.results import Results
from mlens.data import draws
from mlens.data.cache import cache_root, is_intact
from mlens.data.dates import DAY, has_dates
from mlens.data.items import item_of
from mlens.data.rating_table import RatingTable, open_table
from mlens.errors import UserError
from mlens.text import escape_direction_marks

if TYPE_CHECKING:
    from mlens.pipeline import RunInputs

# Bytes of the page, and the most that one user may take: a longer history is left out, so that others fit.
MAX_BYTES, MAX_USER_BYTES = 5_000_000, 1_000_000
# The longest reason why an arm's histories are unknown, in characters.
REASON = 400
# Users whose histories are recomputed at once.
BATCH = 200
# What must not appear in a data block of HTML: the start of a tag or of a reference, and JavaScript's line ends.
UNSAFE = re.compile("[<>&\u2028\u2029]")
# The key of a table in the cache, which names a folder.
CACHE_KEY = re.compile("[0-9a-f]{32}")


@dataclass
class _Opened:
    """An arm whose histories are recomputed.

    arm: the arm.
    number: its index in `Paired.arms`.
    inputs: of its first run; None if they can't be had.
    reason: why they can't be had, or why the histories aren't those of the run; empty otherwise.
    """

    arm: Arm
    number: int
    inputs: RunInputs | None = None
    reason: str = ""

    def fail(self, reason: str) -> None:
        self.inputs, self.reason = None, reason if len(reason) <= REASON else f"{reason[: REASON - 1]}…"


@dataclass(frozen=True)
class _Predicted:
    """The predictions of an arm for all paired targets.

    probabilities: [t, ratings], means over its runs and draws.
    expected: [t] expected ratings, means over its runs and draws.
    hashes: by draw, the hashes [t] of its first run's histories.
    """

    probabilities: np.ndarray
    expected: np.ndarray
    hashes: list[pl.Series]


@dataclass(frozen=True)
class Exploration:
    """The page to explore.

    html: its text, at most MAX_BYTES in UTF-8.
    unknown: a line for each arm whose histories can't be recomputed.
    """

    html: str
    unknown: list[str]


@dataclass(frozen=True)
class _Shown:
    """The ratings that were shown to an arm for some targets, as indices into the table.

    visible: the ratings visible to each target.
    drawn: by draw, the ratings shown to each target.
    """

    visible: list[np.ndarray]
    drawn: list[list[np.ndarray]]


def explore(results: Results, title: str, trust: bool = False) -> Exploration:
    """Make the page about the compared arms, in the order of the report.

    What an arm was shown is recomputed from the config of its first run, as `mlens show` does, and is given only if it
    has the hash that the run kept with its predictions. Distributions are means over an arm's runs and draws. If not
    all users fit, the page has an even sample, drawn with the evaluation seed.

    trust: allow the runs' configs to name classes from outside mlens, whose code runs.

    Raises UserError if the histories of no arm can be recomputed, or if a run's predictions can't be read.
    """
    paired = results.paired
    opened = [_Opened(paired.arms[number], number) for number in results.order]
    for one in opened:
        _open(one, paired.targets, trust)
    usable = [one.inputs for one in opened if one.inputs is not None]
    if not usable:
        raise UserError(opened[0].reason)
    first = usable[0]
    for one in opened:
        if one.inputs is not None and one.inputs.table.content_hash() != first.table.content_hash():
            one.fail("its data aren't those of the other arms")
    predicted = [_predicted(paired, one, first.table.scale) for one in opened]
    rows = _table_rows(first.table, paired.targets)
    users = np.unique(np.asarray(first.table.user)[rows])
    words = draws.each(draws.PAGE_USERS, first.settings.evaluation.seed, first.table.user_keys[users])
    head = {
        "item": item_of(first.settings.data).name,
        "categories": item_of(first.settings.data).categories,
        "scale": first.table.scale,
        "dates": has_dates(first.table),
        "users": len(users),
    }

    def page(texts: list[str], movies: dict[int, list[str]], left_out: int) -> str:
        arms = [_describe(paired, one, place) for place, one in enumerate(opened)]
        content = _as_json(head | {"leftOut": left_out, "arms": arms, "movies": movies})
        return _html(title, f'{content[:-1]},"list":[{",".join(texts)}]}}', first.table.made_up)

    # Reasons that come later have at most 6 bytes a character.
    size = len(page([], {}, len(users)).encode()) + 6 * REASON * len(opened)
    texts: list[str] = []
    movies: dict[int, list[str]] = {}
    left_out = 0
    order = users[np.argsort(words, kind="stable")]
    for entry in _users(opened, predicted, first.table, rows, order):
        new = {movie: _movie(first.table, movie) for movie in entry["movie"] if movie not in movies}
        text = _as_json(entry)
        added = len(text.encode()) + len(_as_json(new).encode())
        if added > MAX_USER_BYTES:
            left_out += 1
        elif size + added > MAX_BYTES:
            break
        else:
            size += added
            movies.update(new)
            texts.append(text)
    if all(one.reason for one in opened):
        raise UserError(opened[0].reason)
    unknown = [f"{one.arm.label}: {one.reason}" for one in opened if one.reason]
    return Exploration(page(texts, movies, left_out), unknown)


def _open(one: _Opened, targets: pl.DataFrame, trust: bool) -> None:
    """Read what the arm's first run was made from."""
    run = one.arm.runs[0]
    try:
        # Without the data nothing else is needed, and what follows imports transformers.
        table = _cached_table(run)
        _table_rows(table, targets)

        from mlens.compose import run_config
        from mlens.config import check_config
        from mlens.identity import read_identity
        from mlens.training.folder import RunFolder

        settings, identity = check_config(run_config(run.folder, [], (), trust)), read_identity(run.folder)

        model = RunFolder(run.folder).model
        if not model.is_dir():  # transformers would look for a model of this name on the hub
            raise UserError(f"{model}, which has its tokenizer, is gone")

        from mlens.pipeline import open_inputs

        one.inputs = open_inputs(settings, tokenizer_folder=model, identity=identity, table=table)
    except (UserError, OSError) as error:
        one.fail(str(UserError(str(error))))


def _cached_table(run: Run) -> RatingTable:
    """Open the ratings of a run from the cache: no source is read again or downloaded, and they are those of the run.

    Raises UserError if the cache doesn't have them.
    """
    key = run.summary.get("identity", {}).get("data", "")
    folder = cache_root() / "tables" / key
    if not CACHE_KEY.fullmatch(key) or not is_intact(folder):
        raise UserError("its data aren't in the cache. `mlens show RUN user=ID` reads unchanged data again")
    return open_table(folder)


def _table_rows(table: RatingTable, targets: pl.DataFrame) -> np.ndarray:
    """Return each target's index in the table: [t]. Raises UserError if the table doesn't have these targets."""
    users = pl.DataFrame({"id": table.users["id"].cast(pl.String), "index": np.arange(len(table.users))})
    named = targets.select(pl.col("user").cast(pl.String).alias("id"))
    user = named.join(users, on="id", how="left", maintain_order="left")["index"]
    if not user.has_nulls():
        index = user.to_numpy()
        rows = table.user_offsets[index] + targets["t"].to_numpy().astype(np.int64)
        if (rows < table.user_offsets[index + 1]).all():
            movies = table.movies["id"].cast(pl.String).gather(np.asarray(table.movie)[rows])
            ratings = np.array(table.scale)[table.rating_index[rows]]
            if movies.equals(targets["movie"].cast(pl.String)) and (ratings == targets["rating"].to_numpy()).all():
                return rows
    raise UserError("the data have other test targets than the run")


def _predicted(paired: Paired, one: _Opened, scale: Sequence[float]) -> _Predicted:
    columns = [f"p_{value}" for value in scale]
    drawn = [
        [frame.sort("user", "t") for frame in run.predictions("test", ("user", "t", "history_hash", *columns))]
        for run in one.arm.runs
    ]
    of_runs = [np.mean([frame.select(columns).to_numpy() for frame in frames], axis=0) for frames in drawn]
    expected = paired.over_draws(paired.expected)[paired.arm == one.number].mean(axis=0)
    return _Predicted(np.mean(of_runs, axis=0), expected, [frame["history_hash"] for frame in drawn[0]])


def _users(
    opened: Sequence[_Opened], predicted: Sequence[_Predicted], table: RatingTable, rows: np.ndarray, order: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Yield what the page has of each user.

    opened, predicted: the arms.
    rows: [t] the paired targets' indices in the table.
    order: [users] the users' indices in the table.
    """
    user = np.asarray(table.user)[rows]
    by_row = np.argsort(rows, kind="stable")
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        targets = by_row[np.isin(user[by_row], batch)]
        arms = list(zip(opened, predicted, strict=True))
        shown = [_shown(one, rows[targets], [kept.gather(targets) for kept in found.hashes]) for one, found in arms]
        if not any(shown):
            return
        for one in batch.tolist():
            yield _user(table, one, targets, rows, shown, predicted)


def _user(
    table: RatingTable,
    user: int,
    targets: np.ndarray,
    rows: np.ndarray,
    shown: Sequence[_Shown | None],
    predicted: Sequence[_Predicted],
) -> dict[str, Any]:
    """Return what the page has of one user.

    targets: the paired targets that `shown` is about.
    """
    offset, stop = int(table.user_offsets[user]), int(table.user_offsets[user + 1])
    of_user = np.flatnonzero((rows[targets] >= offset) & (rows[targets] < stop))
    entries, last = [], int(rows[targets[of_user]].max())
    for i in of_user.tolist():
        target = int(targets[i])
        t = int(rows[target]) - offset
        visible = reduce(np.union1d, [found.visible[i] for found in shown if found is not None])
        arms = [
            {
                "p": np.round(1000 * found.probabilities[target]).astype(int).tolist(),
                "expected": round(float(found.expected[target]), 2),
                "shown": None if of_arm is None else [encode(drawn[i] - offset, t) for drawn in of_arm.drawn],
            }
            for found, of_arm in zip(predicted, shown, strict=True)
        ]
        entries.append({"t": t, "visible": encode(visible - offset, t), "arms": arms})
    rated = slice(offset, last + 1)
    return {
        "id": escape_direction_marks(str(table.users["id"][user])),
        "movie": np.asarray(table.movie[rated]).tolist(),
        "rating": table.rating_index[rated].tolist(),
        # The first day, and the days from one rating to the next.
        "day": np.diff(np.asarray(table.timestamp[rated]) // DAY, prepend=0).tolist(),
        "targets": entries,
    }


def _shown(one: _Opened, rows: np.ndarray, kept: Sequence[pl.Series]) -> _Shown | None:
    """Recompute what an arm was shown for targets; None if that can't be had.

    rows: [t] the targets' indices in the table, ascending.
    kept: for each draw, the hashes [t] that the run kept.
    """
    if one.inputs is None:
        return None
    from mlens.packing.dataset import history_hash

    stage = one.inputs.stages.get("test")
    chosen = np.zeros(0, dtype=np.int64) if stage is None else np.flatnonzero(np.isin(stage.targets, rows))
    try:
        if len(chosen) != len(rows):
            raise UserError("the run's config gives other test targets than it predicted")
        dataset, drawn = one.inputs.dataset("test", chosen), []
        for draw, hashes in enumerate(kept):
            of_draw = dataset if draw == 0 else dataset.with_epoch(draw)
            histories = [of_draw.history(i) for i in range(len(rows))]
            if [history_hash(history) for history in histories] != hashes.to_list():
                raise UserError("the recomputed histories aren't those of the run: mlens has changed since")
            drawn.append(histories)
    except UserError as error:
        one.fail(str(error))
        return None
    return _Shown([dataset.stage.visible_to(i) for i in range(len(rows))], drawn)


def encode(chosen: np.ndarray, n: int) -> list[int] | str:
    """Encode ascending indices below n in the shorter of two ways: the lengths of gaps and runs in turn, beginning with
    a gap, or n bits in base64, the lowest bit of a byte first.

    >>> encode(np.array([2, 3, 4]), 6)
    [2, 3]
    """
    bits = np.zeros(n, dtype=bool)
    bits[chosen] = True
    edges = np.flatnonzero(bits != np.append(False, bits[:-1])[:n])
    lengths = np.diff(edges if len(edges) % 2 == 0 else np.append(edges, n), prepend=0).tolist()
    if len(lengths) <= 2:  # always the shorter
        return lengths
    packed = base64.b64encode(np.packbits(bits, bitorder="little").tobytes()).decode()
    return lengths if len(_as_json(lengths)) <= len(packed) + 2 else packed


def _movie(table: RatingTable, movie: int) -> list[str]:
    return [escape_direction_marks(table.movies[name][movie]) for name in ("title", "genres")]


def _describe(paired: Paired, one: _Opened, place: int) -> dict[str, Any]:
    colour = look_of_arm(place).colour
    return {
        "label": one.arm.label,
        "colour": "" if colour == INK else colour,
        "runs": len(one.arm.runs),
        "draws": len(paired.draws_of(one.number)),
        "unknown": one.reason,
    }


def _as_json(content: Any) -> str:
    """Return JSON that can stand in a `<script type="application/json">`, whatever its texts hold.

    >>> print(_as_json(["</script>"]))
    ["\\u003c/script\\u003e"]
    """
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _html(title: str, data: str, made_up: bool) -> str:
    from jinja2 import Environment

    package = files("mlens.comparison")
    script = package.joinpath("explore.js").read_text(encoding="utf-8")
    template = package.joinpath("explore.html.jinja").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = Environment(autoescape=True, trim_blocks=True).from_string(template)
    return page.render(title=escape_direction_marks(title), script=script, digest=digest, data=data, made_up=made_up)
