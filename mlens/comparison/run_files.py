"""The files of a run that a comparison reads, and their schemas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from mlens.errors import UserError
from mlens.saved_config import read_saved_config
from mlens.schema import (
    AMOUNT,
    COUNT,
    ERROR,
    FIGURES,
    ID,
    INTEGER,
    LARGEST,
    LOSS,
    MAYBE_NUMBER,
    NUMBER,
    OBJECT,
    POSITIVE,
    ROUNDING,
    SHARE,
    SWITCH,
    TEXT,
    TEXT_OR_NONE,
    Schema,
    require,
)

# Maximum number of rows for each byte of a parquet file: every target has a prediction, so that predictions
# can't be compressed further.
ROWS_PER_BYTE = 10


# Metrics copied from the runs' summaries, as means over seeds.
SUMMARISED = {
    "ndcg_10": SHARE,
    "accuracy": SHARE,
    "nll": LOSS,
    "calibration_error": SHARE,
    "user_rmse": AMOUNT,
    "argmax_rmse": AMOUNT,
    "illegal_mass": SHARE,
}

# Metrics that summaries of earlier versions lack.
_LATER = {"level?": AMOUNT, "taste?": AMOUNT, "auc?": SHARE, "ndcg_10?": SHARE}
_ERRORS = {...: {"rmse": AMOUNT, "mae?": AMOUNT, "targets?": COUNT} | _LATER}
_AUDITED = {"targets": COUNT, "visible": COUNT, "shown": {"prompts": COUNT}}
SUMMARY: Schema = {
    "fingerprint": TEXT,
    "overrides": [TEXT],
    "metrics": {
        "val?": {"rmse?": AMOUNT},
        "test": {"rmse": ERROR, "mae": ERROR, "targets?": COUNT, "averaged?": {"rmse": ERROR}, ...: FIGURES}
        | {"expected_std?": AMOUNT}
        | _LATER
        | dict.fromkeys(("by_user_activity?", "by_movie_popularity?", "by_history_length?"), _ERRORS)
        | {f"{name}?": kind for name, kind in SUMMARISED.items()},
    },
    "baselines": {"test": {"full_history": _ERRORS, "own_history?": _ERRORS}},
    "best_possible?": {"test?": {"own_history": {"rmse": AMOUNT}}},
    "training": {"targets": COUNT, "tokens?": AMOUNT, "step?": COUNT},
    "seconds": {...: AMOUNT},
    "audit?": {"leaks": {...: COUNT}, "stages": {...: _AUDITED}},
    "identity?": {"data": TEXT, "model": TEXT_OR_NONE},
    "made_up_data": SWITCH,
    "versions": {...: TEXT},
}
EVALUATION: Schema = {"overrides": [TEXT], "history": OBJECT, "metrics": {"test": {"rmse": ERROR}}}
PLAN: Schema = {"steps_per_epoch": POSITIVE}
RECORD: Schema = {"kind": TEXT}
# The RMSE is NaN for a model whose predictions are NaN.
VALIDATION: Schema = {"step": COUNT, "seconds": ERROR, "rmse": MAYBE_NUMBER}
PROMPTS: Schema = [
    {"kind": TEXT, "user": ID, "movie": ID, "t": COUNT, "title": TEXT, "prompt": TEXT}
    | {"rating": NUMBER, "expected": NUMBER, "history_used": COUNT}
]
CONFIG: Schema = {"seed": INTEGER, "history": OBJECT, "comparison?": OBJECT}

# Columns of predictions with text or numbers, and with numbers (as all with the prefix p_).
NAMES = ("user", "movie", "history_hash")
NUMBERS = ("t", "rating", "expected", "argmax", "history_used", "history_dropped")
COUNTS = ("t", "history_used", "history_dropped")
# Column with the number of the draw, from 0, for runs with several draws of histories.
DRAW = "draw"


def read_config(file: Path) -> dict:
    """Read a run's saved config. Raises UserError if it can't be read or isn't the config of a run."""
    content = read_saved_config(file)
    require(content, CONFIG, str(file))
    return content


def read_predictions(file: Path, columns: tuple[str, ...] | None = None) -> list[pl.DataFrame]:
    """Read a file of predictions: a frame with one row a target for each draw of histories (one frame if there is no
    column `draw`).

    columns: the columns to return (None: all columns of predictions).

    Raises UserError if the file can't be read, if a column is missing, has another type or missing values, if draws
    differ in their number of rows, if a target occurs twice in a draw, or if a value in any column is impossible.
    """
    try:
        schema = pl.read_parquet_schema(file)
        rows = pl.scan_parquet(file, glob=False).select(pl.len()).collect().item()
        every = [*NAMES, *NUMBERS, *(name for name in schema if name.startswith("p_"))]
        selected = (every if columns is None else list(columns)) + [DRAW] * (DRAW in schema)
        for name in selected:
            _require_column(name, schema, file)
        if not 0 < rows <= ROWS_PER_BYTE * file.stat().st_size:
            raise UserError(f"{file}: impossible number of rows for the file's size: {rows:,}")
        _require_possible(file, schema)
        frame = pl.read_parquet(file, columns=selected, glob=False)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise UserError(f"{file} can't be read: {str(error).partition(chr(10))[0]}") from error
    for name in selected:
        invalid = name not in NAMES and not frame[name].is_between(-LARGEST, LARGEST).all()
        if invalid or frame[name].has_nulls():
            raise UserError(f"{file}: the column {name} has missing or invalid values")
    return _draws(frame, file) if DRAW in selected else [frame]


def _draws(frame: pl.DataFrame, file: Path) -> list[pl.DataFrame]:
    """Split the rows by draw, in their order. Raises UserError if draws aren't 0, 1, … with equal numbers of rows."""
    sizes = frame.group_by(DRAW).len().sort(DRAW)
    if sizes[DRAW].to_list() != list(range(len(sizes))) or sizes["len"].n_unique() != 1:
        raise UserError(f"{file}: the column {DRAW} must count draws from 0, each with a row for every target")
    return [draw.drop(DRAW) for draw in frame.sort(DRAW, maintain_order=True).partition_by(DRAW, maintain_order=True)]


def _require_possible(file: Path, schema: dict[str, pl.DataType] | pl.Schema) -> None:
    """Raise UserError for the first rule that a row violates. The rows are streamed, not kept in memory."""
    shares = [name for name in schema if name.startswith("p_")]
    for name in (name for name in (*NAMES, *NUMBERS, *shares) if name in schema):
        _require_column(name, schema, file)
    rules = {f"{name} is negative": pl.col(name) < 0 for name in COUNTS if name in schema}
    rules |= {f"{name} is not a probability": ~pl.col(name).is_between(-ROUNDING, 1 + ROUNDING) for name in shares}
    if shares:
        scale = _scale(shares, file)
        lowest, highest = min(scale) - ROUNDING, max(scale) + ROUNDING
        rules["probabilities don't sum to 1"] = (pl.sum_horizontal(shares) - 1).abs() > ROUNDING
        on_scale = {name: pl.col(name).is_in(scale) for name in ("rating", "argmax") if name in schema}
        rules |= {f"{name} is not on the scale": ~rule for name, rule in on_scale.items()}
        if "expected" in schema:
            rules["expected is outside of the scale"] = ~pl.col("expected").is_between(lowest, highest)
    if {"user", "t"} <= {*schema}:
        one = [name for name in ("user", "t", DRAW) if name in schema]
        rules["a target occurs twice"] = pl.struct(one).is_duplicated()
    found = pl.scan_parquet(file, glob=False).select(rule.any().alias(name) for name, rule in rules.items()).collect()
    broken = [name for name in rules if found[name][0]]
    if broken:
        raise UserError(f"{file}: {broken[0]}. These aren't the predictions of a run")


def _scale(shares: Sequence[str], file: Path) -> list[float]:
    """Return the ratings that the columns of probabilities are named for."""
    try:
        return [float(name.removeprefix("p_")) for name in shares]
    except ValueError as error:
        raise UserError(f"{file}: a column p_… isn't named for a rating: {error}") from error


def _require_column(name: str, schema: dict[str, pl.DataType] | pl.Schema, file: Path) -> None:
    if name not in schema:
        raise UserError(f"{file}: the column {name} is missing")
    kind = schema[name]
    if not (kind.is_numeric() or (name in NAMES and kind == pl.String)):
        raise UserError(f"{file}: the column {name} must be {'text or ' if name in NAMES else ''}numbers, not {kind}")
